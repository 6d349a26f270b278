"""Decoding from a draft: greedy decoding's own text, the draft's log-probs, few forward passes."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_drafts import edited
from small_models import FIVE, network, ragged_ids, tokenizer

from rlmec.data.row import Row
from rlmec.lm.draft_decoding import Realignment, RewriteBatch, rewrite
from rlmec.lm.generation import Decoding, generate
from rlmec.lm.logprobs import TokenScorer, score_rows

LENGTHS = (9, 3, 1, 14, 6, 2)
LIMIT = 40
NO_END = (-1,)
PAD_ID = 0


def greedy(net, prompts, ends=NO_END, limit=LIMIT):
    return generate(net, prompts, Decoding(limit), end_ids=ends, pad_id=PAD_ID)


def rewritten(net, prompts, drafts, ends=NO_END, limit=LIMIT):
    return rewrite(net, prompts, drafts, limit, end_ids=ends, pad_id=PAD_ID)


def gap(net, ids):
    """By how much the most likely next token leads (logits, float32)."""
    first, second = net(torch.tensor([ids])).logits[0, -1].topk(2).values.tolist()
    return first - second


def check(net, prompts, drafts, ends=NO_END, limit=LIMIT):
    """Ids, log-probs and clipping are those of `generate`, up to the first tie of two logits; the
    drafts' log-probs are those of `score_rows`."""
    done = rewritten(net, prompts, drafts, ends, limit)
    for prompt, one, other in zip(prompts, done, greedy(net, prompts, ends, limit), strict=True):
        ours, theirs = one.completion.ids, other.ids
        if ours != theirs:
            pairs = zip(ours, theirs, strict=False)
            at = next(i for i, (a, b) in enumerate(pairs) if a != b)
            assert gap(net, [*prompt, *ours[:at]]) < 1e-5
            continue
        assert one.completion.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        assert one.completion.clipped == other.clipped
    rows = [
        Row.likelihood(str(i), [*p, *d], len(p))
        for i, (p, d) in enumerate(zip(prompts, drafts, strict=True))
        if d
    ]
    scored = iter(score_rows(TokenScorer(net), rows, PAD_ID))
    for one, draft in zip(done, drafts, strict=True):
        assert one.draft_logprobs == pytest.approx(next(scored) if draft else [], abs=1e-5)
    return done


def passes(net, prompts, drafts, **settings):
    """How often the decoder runs."""
    seen = []
    handle = net.get_decoder().register_forward_hook(lambda *_: seen.append(1))
    try:
        rewritten(net, prompts, drafts, **settings)
    finally:
        handle.remove()
    return len(seen)


def ends_of(net, prompts, count):
    """Tokens that cut the greedy texts to many different lengths."""
    texts = [c.ids for c in greedy(net, prompts)]

    def spread(token):
        return len({ids.index(token) if token in ids else LIMIT for ids in texts})

    tokens = sorted({t for ids in texts for t in ids}, key=lambda t: (-spread(t), t))
    return tuple(tokens[:count])


# --- equality ---


@pytest.mark.parametrize("kind", [*FIVE, "soft_capped"])
@pytest.mark.parametrize("count", [0, 1, 3, 8])
def test_a_rewrite_is_what_greedy_decoding_says(kind, count):
    """Prompts and texts longer than the sliding windows of 6, ends of 0 or 2 tokens."""
    net, prompts, draw = network(kind, seed=2), ragged_ids(LENGTHS, 3), random.Random(count)
    for ends in (NO_END, ends_of(net, prompts, 2)):
        texts = [c.ids for c in greedy(net, prompts, ends)]
        check(net, prompts, [edited(ids, count, draw) for ids in texts], ends)


@pytest.mark.parametrize("kind", FIVE)
def test_useless_empty_short_and_long_drafts(kind):
    net, prompts = network(kind, seed=2), ragged_ids(LENGTHS, 3)
    ends = ends_of(net, prompts, 1)
    texts = [c.ids for c in greedy(net, prompts)]
    noise = ragged_ids([1, 30, 7, 50, 2, 12], 8)
    drafts = [[], noise[1], texts[2][:5], texts[3] + noise[3], [*texts[4][:3], *ends], noise[5]]
    for some in (NO_END, ends):
        check(net, prompts, drafts, some)
    check(net, prompts, [[]] * len(prompts))


@pytest.mark.parametrize("kind", FIVE)
def test_guesses_that_are_looked_up(kind, monkeypatch):
    """In drafts whose halves are swapped, and in the prompt, which has the text to come."""
    aims = []
    plain = RewriteBatch._aim
    monkeypatch.setattr(RewriteBatch, "_aim", lambda self: aims.append(plain(self)) or aims[-1])
    net, prompts = network(kind, seed=2), ragged_ids(LENGTHS, 3)
    texts = [c.ids for c in greedy(net, prompts)]
    check(net, prompts, [[*ids[20:], *ids[:20]] for ids in texts])

    longer = [[*p, *ids] for p, ids in zip(prompts, texts, strict=True)]
    check(net, longer, [[5] * 9] * len(longer))
    assert any((a.looked_up & ~a.from_text).any() for a in aims)
    assert any(a.from_text.any() for a in aims)


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_limits_cut_in_the_middle_of_a_guess(limit):
    net, prompts, draw = network("llama", seed=2), ragged_ids(LENGTHS, 3), random.Random(1)
    texts = [c.ids for c in greedy(net, prompts)]
    done = check(net, prompts, [edited(t, 2, draw) for t in texts], limit=limit)
    assert {len(r.completion.ids) for r in done} == {limit}
    assert all(r.completion.clipped for r in done)


def test_an_end_token_in_the_draft_ends_nothing_that_the_network_does_not_end():
    net, prompts = network("llama", seed=2), ragged_ids(LENGTHS, 3)
    (end,) = ends_of(net, prompts, 1)
    texts = [c.ids for c in greedy(net, prompts, (end,))]
    drafts = [[*ids[:2], end, *ids[2:]] for ids in texts]
    done = check(net, prompts, drafts, (end,))
    assert max(len(r.completion.ids) for r in done) > 3


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_both_attentions(attention):
    net, prompts = network("gemma3_text", seed=2), ragged_ids(LENGTHS, 3)
    net.set_attn_implementation(attention)
    draw = random.Random(2)
    check(net, prompts, [edited(c.ids, 3, draw) for c in greedy(net, prompts)])


@torch.no_grad()
def test_alternatives_are_the_likeliest_tokens_where_they_are_not_the_draft_s(monkeypatch):
    net, prompts, draw = network("llama", seed=2), ragged_ids(LENGTHS, 3), random.Random(1)
    drafts = [edited(c.ids, 4, draw) for c in greedy(net, prompts)]
    drafts[0] = []
    monkeypatch.setattr("rlmec.lm.draft_decoding.LOGITS_AT_ONCE", 1500)  # several parts
    settings = {"end_ids": NO_END, "pad_id": PAD_ID}
    done = rewrite(net, prompts, drafts, LIMIT, **settings, alternatives=3)
    found = 0
    for prompt, draft, one in zip(prompts, drafts, done, strict=True):
        if not draft:
            assert one.alternatives == []
            continue
        logits = net(torch.tensor([[*prompt, *draft]])).logits[0, len(prompt) - 1 : -1]
        values, ids = logits.log_softmax(-1).topk(3)
        differ = (ids[:, 0] != torch.tensor(draft)).nonzero()[:, 0].tolist()
        assert [a.place for a in one.alternatives] == differ
        assert [a.ids for a in one.alternatives] == ids[differ].tolist()
        kept = [a.logprobs for a in one.alternatives]
        np.testing.assert_allclose(kept, values[differ].numpy(), atol=1e-5)
        found += len(differ)
    assert found > 5
    plain = rewritten(net, prompts, drafts)
    assert [(r.completion, r.draft_logprobs, []) for r in done] == [
        (r.completion, r.draft_logprobs, r.alternatives) for r in plain
    ]


def test_small_batches_and_head_parts_change_nothing(monkeypatch):
    net, prompts, draw = network("qwen3", seed=2), ragged_ids(LENGTHS, 3), random.Random(3)
    drafts = [edited(c.ids, 2, draw) for c in greedy(net, prompts)]
    monkeypatch.setattr("rlmec.lm.kv_cache.TOKENS_AT_ONCE", 120)
    monkeypatch.setattr("rlmec.lm.draft_decoding.LOGITS_AT_ONCE", 3 * len(tokenizer()))
    monkeypatch.setattr("rlmec.lm.kv_cache.BLOCK", 1)  # buffers grow at every pass
    check(net, prompts, drafts)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**20), st.sampled_from(["llama", "mistral", "gpt2"]))
def test_any_drafts(seed, kind):
    print(f"seed {seed}, {kind}")
    draw, net = random.Random(seed), network(kind, seed=2)
    prompts = ragged_ids([draw.randrange(1, 15) for _ in range(draw.randrange(1, 6))], seed)
    limit = draw.randrange(1, 30)
    ends = tuple(draw.randrange(2, len(tokenizer())) for _ in range(40))
    texts = [c.ids for c in greedy(net, prompts, ends, limit)]
    drafts = [edited(t, draw.randrange(0, 9), draw) for t in texts]
    check(net, prompts, drafts, ends, limit)


def test_the_mode_is_put_back_and_lengths_are_checked():
    net = network("gpt2", seed=1, dropout=True).train()
    prompts = ragged_ids(LENGTHS, 3)
    drafts = ragged_ids([4] * len(prompts), 5)
    assert rewritten(net, prompts, drafts) == rewritten(net, prompts, drafts)
    assert all(m.training for m in net.modules())
    with pytest.raises(ValueError, match="6 prompts and 5 drafts"):
        rewritten(net, prompts, drafts[1:])


# --- how many passes ---


def successor_network():
    """GPT-2 without attention that says each token's successor, whatever came before: its guesses
    after a wrong token are wrong once, as a trained network's are."""
    net = network("gpt2", seed=1, tie_word_embeddings=False)
    with torch.no_grad():
        for block in net.transformer.h:
            for layer in (block.attn.c_proj, block.mlp.c_proj):
                layer.weight.zero_()
                layer.bias.zero_()
        net.transformer.wpe.weight.zero_()
        hidden = net.transformer.ln_f(net.transformer.wte.weight)
        net.lm_head.weight.copy_(hidden.roll(1, 0))
    return net


@pytest.mark.parametrize("count", range(9))
@pytest.mark.parametrize("how", ["changed", "put_in", "left_out"])
def test_passes_are_as_many_as_edits(count, how):
    """k + 1, and one more where a guess was cut short. A token left out of the draft looks like a
    changed one until the next is seen, and takes two."""
    net, prompt, draw = successor_network(), [5, 9], random.Random(count)
    text = greedy(net, [prompt], limit=100)[0].ids
    assert text[:3] == [10, 11, 12]
    draft = edited(text, count, draw, how, least=11)
    check(net, [prompt], [draft], limit=100)
    found = passes(net, [prompt], [draft], limit=100)
    assert found <= (2 * count + 3 if how == "left_out" else count + 2)
    assert passes(net, [prompt], [text], limit=100) == 1


def test_a_useless_draft_is_given_up():
    """One pass for the draft, one for every further token, and few guesses.

    Every token of the text is in the draft, before one that the network does not say. After 7
    misses the share of such places is (0 + 4 / 3) / (7 + 4) < 1 / 8.
    """
    net, prompt = successor_network(), [5]
    draft = list(range(90, 2, -2))
    passes(net, [prompt], [draft])  # whether slots can be used is found out here
    shapes = []
    handle = net.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    rewritten(net, [prompt], [draft])
    handle.remove()
    assert (len(shapes), shapes[0]) == (LIMIT, 1 + len(draft))
    assert sum(size > 1 for size in shapes[1:]) <= 7
    assert max(shapes[1:]) <= 1 + 4


def test_a_draft_is_taken_up_again_where_the_text_returns_to_it():
    """Its first 20 tokens are noise, then it is what is said."""
    net, prompt = successor_network(), [5]
    text = greedy(net, [prompt], limit=80)[0].ids
    draft = [200] * 20 + text[20:]
    check(net, [prompt], [draft], limit=80)
    assert passes(net, [prompt], [draft], limit=80) <= 20 + 12


# --- networks that cannot ---


def test_other_networks_are_decoded_token_by_token_and_it_is_said(monkeypatch):
    net, prompts = network("llama", seed=2), ragged_ids(LENGTHS, 3)
    drafts = [[], *ragged_ids([3, 9, 4, 1, 6], 5)]
    wanted = rewritten(net, prompts, drafts)
    monkeypatch.setattr("rlmec.lm.draft_decoding.slots_obstacle", lambda _: "it is odd")
    with pytest.warns(UserWarning, match="not used in decoding: it is odd"):
        found = rewritten(net, prompts, drafts)
    for one, other in zip(found, wanted, strict=True):
        assert one.completion.ids == other.completion.ids
        assert one.draft_logprobs == pytest.approx(other.draft_logprobs, abs=1e-5)


# --- realignment ---


def table_row(said, draft):
    """The last row of the Levenshtein table, cell by cell."""
    row = list(range(len(draft) + 1))
    for token in said:
        new = [row[0] + 1]
        for j, other in enumerate(draft):
            new.append(min(row[j + 1] + 1, new[j] + 1, row[j] + (token != other)))
        row = new
    return row


def test_the_table_is_levenshteins_and_the_pointer_its_least():
    """In pieces of several lengths, from an accepted beginning on, rows apart and together."""
    draw = np.random.default_rng(4)
    drafts = [draw.integers(0, 4, n).tolist() for n in (0, 1, 5, 12, 9)]
    said = [[*d[:3], *draw.integers(0, 4, 10).tolist()] for d in drafts]
    align = Realignment(drafts)
    copied = np.array([min(3, len(d)) for d in drafts])
    align.start_with_copy(np.arange(5), copied)
    at = copied.copy()
    for pieces in ([2, 1, 3, 1, 2], [1, 4, 0, 2, 1], [3, 1, 1, 1, 1]):
        counts = np.array(pieces)
        rows = np.flatnonzero(counts)
        tokens = np.full((len(rows), 4), 99)
        for i, row in enumerate(rows):
            tokens[i, : counts[row]] = said[row][at[row] : at[row] + counts[row]]
        align.advance(rows, tokens, counts[rows])
        at += counts
        for row in rows:
            cells = table_row(said[row][: at[row]], drafts[row])
            assert align.table[row, : len(cells)].tolist() == cells
            assert cells[align.pointer[row]] == min(cells)


@pytest.mark.parametrize(
    ("said", "pointer", "run"),
    [
        ([1, 2, 9], 3, 0),  # 9 for 3, or put in: taken for a change
        ([1, 2, 9, 3], 3, 1),  # it was put in
        ([1, 2, 4], 4, 1),  # 3 was left out: 4 is the draft's own
        ([1, 2, 4, 5, 6], 6, 3),
        ([7, 7, 7], 3, 0),
    ],
)
def test_a_pointer_worked_by_hand(said, pointer, run):
    """The draft is 1 2 3 4 5 6."""
    align = Realignment([[1, 2, 3, 4, 5, 6]])
    for token in said:
        align.advance(np.array([0]), np.array([[token]]), np.array([1]))
    assert (align.pointer[0], align.run[0]) == (pointer, run)
