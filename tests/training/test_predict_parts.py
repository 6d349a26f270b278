"""Fixed parts: each is dealt once, and its bytes depend on the part alone."""

import shutil

import pytest
from small_fits import run_of
from small_models import network, ragged_ids

from rlmec.data.row import Row
from rlmec.lm.generation import Decoding
from rlmec.lm.logprobs import TokenScorer, score_rows
from rlmec.pipeline.predict import predict_parts
from rlmec.records import Score
from rlmec.store.fingerprint import file_digest
from rlmec.store.parts import PartFolder
from rlmec.training.policy_module import PolicyModule
from rlmec.training.predict_parts import (
    Draft,
    GenerationPart,
    PartList,
    ScoringPart,
    Sealed,
    cut,
    part_loader,
    part_seed,
)
from rlmec.training.reward_model_module import RewardModelModule

PROMPTS = ragged_ids([4, 9, 2, 6, 5, 3, 7, 1], seed=1)
SAMPLING = Decoding(6, temperature=1.0, num_generations=2)


# --- seeds and cuts ---


def test_a_seed_of_a_part_is_a_fixed_function():
    """crc32 of "seed/stage/index", the same on every machine."""
    assert part_seed(1, "sample", 0) == 0x707CA8DA
    many = {part_seed(s, n, i) for s in (1, 2, 12) for n in ("sample", "grm") for i in range(200)}
    assert len(many) == 3 * 2 * 200


@pytest.mark.parametrize(("count", "size"), [(0, 4), (1, 4), (8, 4), (9, 4), (3, 1)])
def test_a_cut_covers_everything_in_order(count, size):
    runs = cut(count, size)
    assert [i for run in runs for i in run] == list(range(count))
    assert all(len(run) == size for run in runs[:-1])
    assert all(len(run) for run in runs)


# --- dealing ---


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("missing", [[0], [1, 2, 6], [0, 1, 2, 3, 4, 5, 6], []])
def test_every_missing_part_is_dealt_once_and_every_rank_has_as_many(world, missing):
    parts = [f"part {i}" for i in range(7)]
    hands = [PartList(parts, missing, rank, world) for rank in range(world)]
    assert {len(hand) for hand in hands} == {-(-len(missing) // world)}
    dealt = [hand[i].part for hand in hands for i in range(len(hand))]
    assert sorted(p for p in dealt if p) == [parts[i] for i in missing]
    for rank, hand in enumerate(hands):
        mine = [hand[i].part for i in range(len(hand))]
        assert [p for p in mine if p] == [parts[i] for i in missing[rank::world]]
        assert None not in mine[: len(missing[rank::world])]  # empty ones come last


def test_a_loader_hands_out_the_part_itself():
    part = GenerationPart(0, PROMPTS, SAMPLING, 1)
    (sealed,) = part_loader([part], [0], 0, 1)
    assert isinstance(sealed, Sealed)
    assert sealed.part is part


# --- under a Trainer ---


def parts_of(size=2):
    return [
        GenerationPart(i, [PROMPTS[j] for j in run], SAMPLING, part_seed(1, "sample", i))
        for i, run in enumerate(cut(len(PROMPTS), size))
    ]


def finish(part, outputs):
    scores = [
        Score(f"{part.index}/{i}", c.logprobs, [float(t) for t in c.ids], "d")
        for i, c in enumerate(outputs)
    ]
    return {"scores": (scores, Score)}, {"texts": len(scores)}


def predicted(folder, module=None, parts=None):
    """Predicts what `folder` lacks; returns digests by part, and the parts that were done."""
    parts, done = parts_of() if parts is None else parts, []

    def counted(part, outputs):
        done.append(part.index)
        return finish(part, outputs)

    module = module or PolicyModule(network("gpt2", seed=1, dropout=True), pad_id=0, end_ids=(1,))
    kept = PartFolder(folder, len(parts))
    run = run_of()
    predict_parts(
        run,
        "sample",
        module,
        parts,
        kept,
        counted,
        precision="32-true",
        seed=1,
        first_item=lambda index: f"prompt {index * 2}",
    )
    assert kept.missing() == []
    return [file_digest(kept.part(i) / "scores.parquet") for i in range(len(parts))], done


def test_every_part_is_computed_and_written_once(tmp_path):
    digests, done = predicted(tmp_path)
    assert done == [0, 1, 2, 3]
    assert len(set(digests)) == 4
    assert PartFolder(tmp_path, 4).counts() == {"texts": 2 * len(PROMPTS)}
    again, done = predicted(tmp_path)
    assert (again, done) == (digests, [])


@pytest.mark.parametrize("there", [[0], [3], [0, 2], [1, 2, 3]])
def test_a_pass_that_goes_on_writes_the_same_bytes(there, tmp_path):
    """Parts made in another pass, after others and without them."""
    digests, _ = predicted(tmp_path / "whole")
    kept = PartFolder(tmp_path / "cut", 4)
    for i in there:
        shutil.copytree(PartFolder(tmp_path / "whole", 4).part(i), kept.part(i))
    found, done = predicted(tmp_path / "cut")
    assert found == digests
    assert done == [i for i in range(4) if i not in there]


def test_an_error_leaves_the_parts_that_are_whole(tmp_path):
    class Failing(PolicyModule):
        def predict_step(self, batch, batch_idx):
            if batch.part.index == 2:
                raise RuntimeError("no memory")
            return super().predict_step(batch, batch_idx)

    net = network("gpt2", seed=1, dropout=True)
    with pytest.raises(RuntimeError, match="no memory"):
        predicted(tmp_path / "cut", Failing(net, pad_id=0, end_ids=(1,)))
    assert PartFolder(tmp_path / "cut", 4).missing() == [2, 3]
    found, done = predicted(tmp_path / "cut")
    assert done == [2, 3]
    assert found == predicted(tmp_path / "whole")[0]


# --- what the modules make of a part ---

ROWS = [Row.likelihood(str(i), [*p, 5, 6, 1], len(p)) for i, p in enumerate(PROMPTS)]
GREEDY = Decoding(6)


def test_no_part_gives_nothing():
    for kind in (PolicyModule, RewardModelModule):
        assert kind(network(), pad_id=0, end_ids=(1,)).predict_step(Sealed(None), 0) is None


def drafts_of(net, count=3):
    """Prompts with their greedy texts as drafts."""
    alone = Sealed(GenerationPart(0, PROMPTS[:count], GREEDY, 0))
    made = PolicyModule(net, pad_id=0, end_ids=(1,)).predict_step(alone, 0)
    return [Draft(p, c.ids) for p, c in zip(PROMPTS, made, strict=False)], made


def test_the_policy_scores_rows_and_the_grm_rewrites_too():
    net = network()
    scores = score_rows(TokenScorer(net), ROWS, 0)
    drafts, made = drafts_of(net)
    wrong = [Draft(d.prompt, [*d.ids[:2], 7, *d.ids[3:]]) for d in drafts]
    policy = PolicyModule(net, pad_id=0, end_ids=(1,))
    assert policy.predict_step(Sealed(ScoringPart(0, ROWS)), 0) == scores
    grm = RewardModelModule(net, pad_id=0, end_ids=(1,))
    found = grm.predict_step(Sealed(ScoringPart(0, ROWS, wrong, 6)), 0)
    assert found is not None
    assert found.logprobs == scores
    assert [r.completion.ids for r in found.rewrites] == [c.ids for c in made]
    rows = [Row.likelihood("w", [*d.prompt, *d.ids], len(d.prompt)) for d in wrong]
    for rewrite, own in zip(found.rewrites, score_rows(TokenScorer(net), rows, 0), strict=True):
        assert rewrite.draft_logprobs == pytest.approx(own, abs=1e-5)
    assert [r.alternatives for r in found.rewrites] == [[]] * len(wrong)  # not asked for
    asked = grm.predict_step(Sealed(ScoringPart(0, ROWS, wrong, 6, 2)), 0)
    assert asked is not None
    assert {len(a.ids) for r in asked.rewrites for a in r.alternatives} == {2}
    bare = grm.predict_step(Sealed(ScoringPart(0, ROWS)), 0)
    assert bare is not None
    assert (bare.logprobs, bare.rewrites) == (scores, [])


def test_drafts_are_scored_by_the_passes_that_rewrite_them():
    """Counted: three drafts that are right take one pass, with and without rows next to them."""
    net, calls = network(), []
    drafts, _ = drafts_of(net)
    grm = RewardModelModule(net, pad_id=0, end_ids=(1,))

    def passes(rows, some):
        part = Sealed(ScoringPart(0, rows, some, 6))
        grm.predict_step(part, 0)  # what is asked of a network once is asked here
        calls.clear()
        found = grm.predict_step(part, 0)
        assert found is not None
        assert [len(r.draft_logprobs) for r in found.rewrites] == [len(d.ids) for d in some]
        return len(calls)

    net.get_decoder().register_forward_hook(lambda *_: calls.append(1))
    alone = passes(ROWS, [])
    assert alone >= 1
    assert passes([], drafts) == 1
    assert passes(ROWS, drafts) == alone + 1


def test_dropout_is_off_in_prediction():
    net = network("gpt2", dropout=True)
    module = PolicyModule(net, pad_id=0, end_ids=(1,))
    assert net.training
    part = Sealed(ScoringPart(0, ROWS))
    assert module.predict_step(part, 0) == module.predict_step(part, 0)
