"""A reward model on texts of a user: the numbers of the chain, places in the text, refusals."""

import itertools
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from small_models import PROBLEMS, TEMPLATES, network, prompts, tokenizer
from small_settings import CONF

import rlmec
from rlmec.ablations.rewards import bounded_penalty, good_prefix
from rlmec.export import library
from rlmec.export.library import RewardModel
from rlmec.export.model_folder import (
    FILE,
    Origin,
    read_origin,
    write_origin,
)
from rlmec.lm.draft_decoding import rewrite as rewrite_drafts
from rlmec.lm.loading import export_network, load_network
from rlmec.method.alignment import edit_ratio, edit_script
from rlmec.method.rewards import clipped_probability, edit_labels, no_reward
from rlmec.settings.binding import build
from rlmec.settings.check import check

ATTEMPT = "1 + 3 = 5\nThe answer is 5."
ASKED = PROBLEMS[1]
CODEC = prompts().codec


@pytest.fixture(scope="module")
def grm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("library") / "grm"
    export_network(network(seed=4), tokenizer(), folder)
    write_origin(folder, Origin("grm", TEMPLATES, CODEC.digest, 20))
    return folder


@pytest.fixture(scope="module")
def loaded(grm):
    return RewardModel.load(grm, device="cpu")


def logprobs_by_hand(grm, problem, attempt):
    """One full forward pass, all logits."""
    ids = CODEC.completion(attempt)
    prompt = prompts().rewrite(problem, ids)
    with torch.no_grad():
        logits = load_network(grm)(torch.tensor([[*prompt, *ids]])).logits[0]
    picked = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(ids)[:, None])
    return ids, picked[:, 0].numpy()


def test_a_score_is_the_models_view_token_by_token(grm):
    found = rlmec.score(grm, ASKED.question, ATTEMPT, solution=ASKED.solution)
    ids, wanted = logprobs_by_hand(grm, ASKED, ATTEMPT)
    assert found.token_ids == ids
    assert np.allclose(found.logprobs, wanted, atol=1e-5)
    assert np.allclose(found.probabilities, np.exp(wanted), atol=1e-5)
    assert found.text == ATTEMPT
    assert "".join(found.tokens) == ATTEMPT
    assert [ATTEMPT[a:b] for a, b in found.spans] == found.tokens
    assert found.spans[-1] == (len(ATTEMPT), len(ATTEMPT)), "the end token has no text"
    nothing = np.zeros(len(ids), dtype=bool)
    rewards = clipped_probability(np.array(found.logprobs), False, nothing)
    assert found.token_rewards == rewards.tolist()
    assert min(found.token_rewards) < 0
    right = rlmec.score(grm, ASKED.question, ATTEMPT, solution=ASKED.solution, is_right=True)
    assert min(right.token_rewards) >= 0


def test_a_rewrite_is_what_the_stage_score_would_make(grm, loaded):
    found = loaded.rewrite(ASKED.question, ATTEMPT, solution=ASKED.solution)
    ids = CODEC.completion(ATTEMPT)
    prompt = prompts().rewrite(ASKED, ids)
    how = {"end_ids": CODEC.end_ids, "pad_id": CODEC.pad_id}
    (made,) = rewrite_drafts(load_network(grm), [prompt], [ids], 20, **how)
    assert found.token_ids == made.completion.ids
    assert found.clipped == made.completion.clipped
    assert found.text == CODEC.text(made.completion.ids)
    assert found.edit_ratio == edit_ratio(ids, made.completion.ids)
    assert "".join(e.text for e in found.edits if e.kind != "inserted") == ATTEMPT
    assert "".join(e.text for e in found.edits if e.kind != "deleted") == found.text
    alone = loaded.score(ASKED.question, ATTEMPT, solution=ASKED.solution)
    assert np.allclose(found.scored.logprobs, alone.logprobs, atol=1e-5)
    assert len(loaded.rewrite("q", "a", answer="1", max_completion_length=3).token_ids) <= 3


def test_a_rule_that_looks_at_edits_gets_those_of_the_models_rewrite(loaded):
    rule = partial(edit_labels, penalty=0.3)
    found = loaded.score(ASKED.question, ATTEMPT, solution=ASKED.solution, reward=rule)
    made = loaded.rewrite(ASKED.question, ATTEMPT, solution=ASKED.solution)
    removed = edit_script(found.token_ids, made.token_ids).removed
    assert removed.any()
    assert found.token_rewards == np.where(removed, np.float32(-0.3), 0).tolist()


def test_lists_give_lists_and_single_values_stand_for_all(loaded):
    attempts = [ATTEMPT, "so 4", ""]
    several = loaded.score(ASKED.question, attempts, answer=["4", "4", "4"])
    assert [s.text for s in several] == attempts
    for text, one in zip(attempts, several, strict=True):
        alone = loaded.score(ASKED.question, text, answer="4")
        assert np.allclose(one.logprobs, alone.logprobs, atol=1e-5)
    assert len(loaded.rewrite([ASKED.question] * 2, attempts[:2], answer="4")) == 2
    assert loaded.score("q", [], answer="4") == []
    assert loaded.rewrite("q", [], answer="4") == []
    with pytest.raises(ValueError, match="2 values of question for 3 attempts"):
        loaded.score(["a", "b"], attempts, answer="4")


def test_a_directory_is_loaded_once_until_it_changes(grm, loaded, monkeypatch):
    count = []
    library._loaded.cache_clear()
    load = RewardModel.load.__func__
    monkeypatch.setattr(
        RewardModel, "load", classmethod(lambda cls, place: count.append(1) or load(cls, place))
    )
    for _ in range(2):
        rlmec.score(str(grm), "q", "a", answer="1")
    (grm / "note.txt").write_text("changed")
    rlmec.score(str(grm), "q", "a", answer="1")
    rlmec.score(loaded, "q", "a", answer="1")
    assert len(count) == 2, "at first, and after the change"


def test_what_the_prompt_needs_is_asked_for(loaded, grm):
    with pytest.raises(ValueError, match="attempt 1: "):
        loaded.score("q", ["a", "b"], solution=["s", None])
    with pytest.raises(ValueError, match=r"attempt 0: its rewriting prompt has \d+ tokens"):
        loaded.score("long " * 300, "a", answer="1")
    templates = rlmec.Templates(**{**vars(TEMPLATES), "rewrite": "{solution}{answer}{attempt}"})
    other = RewardModel.load(grm, templates=templates, device="cpu")
    with pytest.raises(ValueError, match=r"attempt 0: .*answer="):
        other.score("q", "a", solution="s")
    assert other.score("q", "a", solution="s", answer="1").logprobs


def test_prompts_come_from_the_directory_or_the_caller(tmp_path):
    folder = tmp_path / "bare"
    export_network(network(seed=4), tokenizer(), folder)
    with pytest.raises(ValueError, match=rf"{folder}: .*rlmec\.json.*templates="):
        RewardModel.load(folder)
    assert RewardModel.load(folder, templates=TEMPLATES).prompts.templates == TEMPLATES
    origin = Origin("grm", TEMPLATES, "0" * 64, 20)
    write_origin(folder, origin)
    assert read_origin(folder) == origin
    with pytest.raises(ValueError, match=r"rlmec\.json.* 000000000000"):
        RewardModel.load(folder)
    for text in ("{", "[]", '{"format": 2}', '{"format": 1, "templates": {"policy": 1}}'):
        (folder / FILE).write_text(text)
        with pytest.raises(ValueError, match=r"rlmec\.json"):
            read_origin(folder)


def test_importing_the_package_costs_nothing():
    code = (
        "import sys, rlmec; print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)));"
        "assert callable(rlmec.score) and 'torch' in sys.modules"
    )
    root = Path(rlmec.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="'rlmec' has no attribute 'scor'"):
        rlmec.scor  # noqa: B018
    assert set(rlmec.__all__) == set(rlmec._HOMES)


# --- every rule that is shipped ---


def shipped_rules():
    """Each rule of conf/, built with its own settings."""
    plain = [path.stem for path in (CONF / "policy" / "reward").glob("*.yaml")]
    wanted = [f"policy/reward={name}" for name in plain if name != "own"]
    ablations = (CONF / "ablation").glob("*.yaml")
    wanted += [f"ablation={path.stem}" for path in ablations if "reward" in path.read_text()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        trees = {name: compose("train", overrides=["logger=none", name]) for name in wanted}
    return {name: build(check(tree, CONF).policy.reward) for name, tree in trees.items()}


def test_every_shipped_rule_scores_or_says_what_it_lacks(loaded):
    rules = shipped_rules()
    assert {"ablation=good_prefix", "ablation=first_error", "policy/reward=no_reward"} <= set(rules)
    lacking = rules.pop("ablation=bounded_penalty")
    for look in (loaded.score, loaded.rewrite):
        with pytest.raises(ValueError, match="bounded_penalty needs old_logprobs"):
            look(ASKED.question, ATTEMPT, solution=ASKED.solution, reward=lacking)
        for rule, is_right in itertools.product(rules.values(), (False, True)):
            how = {"solution": ASKED.solution, "is_right": is_right, "reward": rule}
            found = look(ASKED.question, ATTEMPT, **how)
            scored = getattr(found, "scored", found)
            assert len(scored.token_rewards) == len(scored.tokens)


def test_a_rule_of_the_first_edit_sees_where_the_rewrite_differs_first(loaded):
    """Good prefix: 0.1 before the first edit; the inner rule from there on."""
    rule = partial(good_prefix, rule=no_reward)
    done = loaded.rewrite(ASKED.question, ATTEMPT, solution=ASKED.solution, reward=rule)
    script = edit_script(done.scored.token_ids, done.token_ids)
    assert script.first_edit is not None
    n = len(done.scored.tokens) - script.first_edit
    assert done.scored.token_rewards == pytest.approx([0.1] * script.first_edit + [0.0] * n)


def test_a_rule_within_a_rule_is_looked_at_too(loaded):
    rule = partial(good_prefix, rule=partial(bounded_penalty, rule=no_reward))
    with pytest.raises(ValueError, match="bounded_penalty needs old_logprobs"):
        loaded.score(ASKED.question, ATTEMPT, solution=ASKED.solution, reward=rule)
