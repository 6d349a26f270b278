"""Decoding: Hugging Face's greedy text, the network's own log-probs, seeded samples."""

import pytest
import torch
from small_models import FIVE, network, ragged_ids

from rlmec.data.row import Row
from rlmec.lm.generation import (
    Completion,
    Decoding,
    _choose,
    _drawn,
    _nucleus,
    generate,
)
from rlmec.lm.logprobs import TokenScorer, score_rows

LENGTHS = (9, 3, 1, 14, 6, 2)
LIMIT = 12
NO_END = -1
PAD_ID = 0


def prompts(seed=3):
    return ragged_ids(LENGTHS, seed)


def decode(net, asked, decoding=None, end=NO_END, seed=0):
    return generate(
        net, asked, decoding or Decoding(LIMIT), end_ids=(end,), pad_id=PAD_ID, seed=seed
    )


def an_end_token(net, asked):
    """The token whose first appearance cuts the greedy texts to the most different lengths."""
    texts = [c.ids for c in decode(net, asked)]

    def lengths(token):
        return {ids.index(token) if token in ids else LIMIT for ids in texts}

    return max({token for ids in texts for token in ids}, key=lambda t: (len(lengths(t)), t))


def best_two_differ(net, ids):
    """By how much the most likely next token leads (logits, float32)."""
    first, second = net(torch.tensor([ids])).logits[0, -1].topk(2).values.tolist()
    return first - second


def agree(net, prompt, ours, theirs, end):
    """Ids up to the first tie are equal, and a text without a tie is equal to its end."""
    for at, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            assert best_two_differ(net, [*prompt, *ours[:at]]) < 1e-5
            return
        if one == end:
            break
    assert len(ours) == (ours.index(end) + 1 if end in ours else LIMIT)
    assert ours == theirs[: len(ours)]


# --- greedy ---


@pytest.mark.parametrize("kind", FIVE)
def test_greedy_is_what_hugging_face_generates(kind):
    """Prompts longer and shorter than the sliding windows, rows that end at different steps."""
    net, asked = network(kind, seed=2), prompts()
    end = an_end_token(net, asked)
    ours = decode(net, asked, end=end)
    ids, mask = _left(asked)
    theirs = net.generate(
        ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=LIMIT,
        eos_token_id=end,
        pad_token_id=PAD_ID,
    )[:, ids.shape[1] :].tolist()
    assert len({len(c.ids) for c in ours}) >= 3
    for prompt, one, other in zip(asked, ours, theirs, strict=True):
        agree(net, prompt, one.ids, other, end)


def _left(asked):
    width = max(map(len, asked))
    ids = [[PAD_ID] * (width - len(p)) + p for p in asked]
    mask = [[0] * (width - len(p)) + [1] * len(p) for p in asked]
    return torch.tensor(ids), torch.tensor(mask)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_rows_keep_their_order_and_do_not_see_each_other(kind):
    net, asked = network(kind, seed=4), prompts(5)
    end = an_end_token(net, asked)
    together = decode(net, asked, end=end)
    assert len({tuple(c.ids) for c in together}) >= 4
    for prompt, one in zip(asked, together, strict=True):
        agree(net, prompt, one.ids, decode(net, [prompt], end=end)[0].ids, end)


def test_a_text_is_clipped_exactly_when_it_has_no_end_token():
    net, asked = network("llama", seed=2), prompts()
    end = an_end_token(net, asked)
    done = decode(net, asked, end=end)
    assert {c.clipped for c in done} == {True, False}
    for c in done:
        assert c.clipped == (end not in c.ids)
        assert len(c.ids) == LIMIT if c.clipped else c.ids.index(end) == len(c.ids) - 1
        assert len(c.logprobs) == len(c.ids)


def test_an_end_token_at_the_limit_is_not_clipped():
    net, asked = network("llama", seed=2), prompts()[:1]
    free = decode(net, asked)[0].ids
    at = next(i for i, token in enumerate(free) if token not in free[:i] and i > 0)
    for limit, clipped in ((at, True), (at + 1, False)):
        (c,) = decode(net, asked, Decoding(limit), end=free[at])
        assert c.ids == free[:limit]
        assert c.clipped is clipped


def test_any_end_token_ends_a_completion_that_is_not_clipped():
    net, asked = network("llama", seed=2), prompts()
    one = an_end_token(net, asked)
    texts = [c.ids for c in decode(net, asked, end=one)]
    other = next(t for ids in texts for t in ids[1:] if t != one)
    done = generate(net, asked, Decoding(LIMIT), end_ids=[one, other], pad_id=PAD_ID)
    for c, alone in zip(done, texts, strict=True):
        at = next((i for i, t in enumerate(alone) if t in (one, other)), LIMIT)
        assert c.ids == alone[: at + 1]
        assert c.clipped == (c.ids[-1] not in (one, other))
    assert {c.ids[-1] for c in done} >= {one, other}


# --- log-probs ---


@pytest.mark.parametrize("kind", FIVE)
@pytest.mark.parametrize("decoding", [Decoding(LIMIT), Decoding(LIMIT, 0.7, 0.9, 2)])
def test_reported_logprobs_are_those_of_training(kind, decoding):
    """Also those of sampled tokens: temperature and truncation choose, but do not count."""
    net, asked = network(kind, seed=6), prompts()
    done = decode(net, asked, decoding, end=an_end_token(net, asked), seed=1)
    n = decoding.num_generations
    assert len(done) == n * len(asked)
    rows = [
        Row.likelihood(str(i), [*asked[i // n], *c.ids], len(asked[i // n]))
        for i, c in enumerate(done)
    ]
    for c, scored in zip(done, score_rows(TokenScorer(net), rows, PAD_ID), strict=True):
        assert c.logprobs == pytest.approx(scored, abs=1e-4)


# --- sampling ---


def test_a_seed_names_the_samples():
    net, asked = network("llama", seed=2), prompts()
    sampling = Decoding(LIMIT, temperature=1.0, top_p=0.95, num_generations=3)
    one, again, other = (decode(net, asked, sampling, seed=s) for s in (1, 1, 2))
    assert one == again
    assert [c.ids for c in one] != [c.ids for c in other]
    for i in range(len(asked)):
        assert len({tuple(c.ids) for c in one[3 * i : 3 * i + 3]}) > 1


def test_sampling_leaves_the_global_generator_alone_and_the_mode_as_it_was():
    net = network("gpt2", dropout=True).train()
    before = torch.get_rng_state()
    sampled = decode(net, prompts(), Decoding(4, 1.0))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(m.training for m in net.modules())
    assert sampled == decode(net.eval(), prompts(), Decoding(4, 1.0))


def test_the_mode_is_put_back_after_an_error():
    net = network("llama").train()
    with pytest.raises(ValueError, match="0 sequences"):
        decode(net, [])
    assert net.training


def test_samples_follow_the_probabilities():
    """2,000 first tokens of one prompt: shares within 4 standard deviations of its own."""
    net, count = network("llama", seed=2), 2000
    prompt = prompts()[0]
    own = net(torch.tensor([prompt])).logits[0, -1].detach().softmax(-1)
    done = decode(net, [prompt], Decoding(1, 1.0, 1.0, count), seed=5)
    tokens = torch.tensor([c.ids[0] for c in done])
    for token in own.topk(3).indices.tolist():
        p, share = float(own[token]), float((tokens == token).double().mean())
        assert abs(share - p) < 4 * (p * (1 - p) / count) ** 0.5
    cold = decode(net, [prompt], Decoding(1, 1e-3, 1.0, 50), seed=5)
    assert {c.ids[0] for c in cold} == {int(own.argmax())}


def test_top_p_samples_from_the_smallest_set_alone():
    net, prompt = network("llama", seed=2), prompts()[0]
    own = net(torch.tensor([prompt])).logits[0, -1].detach().softmax(-1)
    best, order = own.sort(descending=True)
    top_p = float(best[:3].sum()) - 1e-4  # three tokens reach it, two do not
    done = decode(net, [prompt], Decoding(1, 1.0, top_p, 300), seed=5)
    assert {c.ids[0] for c in done} == set(order[:3].tolist())


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.76, [0.25, 0.5, 0.125, 0.0]),  # 0.5 + 0.25 = 0.75 is short of it: one of a tie joins
        (0.75, [0.25, 0.5, 0.0, 0.0]),  # just reached
        (0.74, [0.25, 0.5, 0.0, 0.0]),
        (0.5, [0.0, 0.5, 0.0, 0.0]),
        (0.1, [0.0, 0.5, 0.0, 0.0]),
        (0.0, [0.0, 0.5, 0.0, 0.0]),  # the best one always
        (0.9, [0.25, 0.5, 0.125, 0.125]),
    ],
)
def test_a_nucleus_worked_by_hand(top_p, kept):
    row = torch.tensor([[0.25, 0.5, 0.125, 0.125]])
    made = _nucleus(row, top_p)
    assert made.sort().values.tolist() == [sorted(kept)]
    assert made[0, :2].tolist() == kept[:2]


def test_every_row_has_its_own_nucleus():
    rows = torch.tensor([[0.75, 0.125, 0.125], [0.25, 0.25, 0.5]])
    assert (_nucleus(rows, 0.7) > 0).sum(1).tolist() == [1, 2]


def test_a_draw_takes_the_token_in_whose_share_it_falls():
    """Shares end at 0.25, 0.25, 0.75 and 1 of the sum; a token without weight is never drawn."""
    weights = torch.tensor([[1.0, 0.0, 2.0, 1.0, 0.0]]).expand(6, -1)
    draws = torch.tensor([0.0, 0.2, 0.25, 0.7, 0.75, 1 - 2**-24])
    assert _drawn(weights, draws).tolist() == [0, 0, 2, 2, 3, 3]


def test_a_token_outside_the_nucleus_is_drawn_again_from_it():
    """Of 0.5, 0.25, 0.125, 0.125 at top_p 0.7 the first two are kept: the first draw's last quarter
    goes to them by the second draw, so that 64 even pairs of draws make 2/3 and 1/3."""
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()[None]
    even = (torch.arange(12) + 0.5) / 12
    draws = torch.cartesian_prod(even, even)  # [144, 2]
    token, logprob = _choose(logits.expand(144, -1), Decoding(1, 1.0, 0.7), draws)
    assert token.bincount(minlength=4).tolist() == [96, 48, 0, 0]
    assert logprob.exp().unique().tolist() == pytest.approx([0.25, 0.5])


def test_of_equal_tokens_the_first_are_in_the_nucleus():
    """Four of 0.25 at top_p 0.4: two are kept, whichever way a token is drawn."""
    draws = torch.cartesian_prod((torch.arange(8) + 0.5) / 8, (torch.arange(8) + 0.5) / 8)
    token, _ = _choose(torch.zeros(64, 4), Decoding(1, 1.0, 0.4), draws)
    assert token.bincount(minlength=4).tolist() == [32, 32, 0, 0]
    assert _nucleus(torch.full((1, 4), 0.25), 0.4).tolist() == [[0.25, 0.25, 0.0, 0.0]]


# --- what a completion depends on ---

SAMPLING = Decoding(LIMIT, temperature=1.0, top_p=0.9, num_generations=3)


@pytest.mark.parametrize("kind", FIVE)
def test_a_sample_is_named_by_seed_prompt_and_number(kind, monkeypatch):
    """Not by the rows next to it, the number of samples, the limit or how a batch was cut."""
    net, asked = network(kind, seed=2), prompts()
    end = an_end_token(net, asked)
    ids = [c.ids for c in decode(net, asked, SAMPLING, end=end, seed=1)]
    fewer = decode(net, asked[:2], SAMPLING, end=end, seed=1)
    assert [c.ids for c in fewer] == ids[:6]
    alone = decode(net, asked, Decoding(LIMIT, 1.0, 0.9, 1), end=end, seed=1)
    assert [c.ids for c in alone] == ids[::3]
    short = decode(net, asked, Decoding(5, 1.0, 0.9, 3), end=end, seed=1)
    assert [c.ids for c in short] == [row[:5] for row in ids]
    monkeypatch.setattr("rlmec.lm.kv_cache.TOKENS_AT_ONCE", 60)
    monkeypatch.setattr("rlmec.lm.kv_cache.BLOCK", 1)
    monkeypatch.setattr("rlmec.lm.kv_cache.BEGUN_AT_ONCE", 8)
    assert [c.ids for c in decode(net, asked, SAMPLING, end=end, seed=1)] == ids


@pytest.mark.parametrize("kind", FIVE)
def test_the_librarys_own_cache_gives_the_same(kind, monkeypatch):
    net, asked = network(kind, seed=2), prompts()
    end = an_end_token(net, asked)
    for decoding in (Decoding(LIMIT), SAMPLING):
        ours = decode(net, asked, decoding, end=end)
        with monkeypatch.context() as patch:
            patch.setattr("rlmec.lm.generation.slots_obstacle", lambda _: "told so")
            theirs = decode(net, asked, decoding, end=end)
        assert [c.ids for c in ours] == [c.ids for c in theirs]


def test_completions_are_plain_values():
    (c,) = decode(network("llama"), prompts()[:1], Decoding(1))
    assert isinstance(c, Completion)
    assert type(c.ids[0]) is int
    assert type(c.logprobs[0]) is float
