"""Decoding in bfloat16: the library's greedy text, but where the best logits nearly tie."""

import random
from contextlib import nullcontext

import pytest
import torch
from small_drafts import edited
from small_models import FIVE, network, ragged_ids

from rlmec.data.collate import pad_left
from rlmec.lm.draft_decoding import rewrite
from rlmec.lm.generation import Decoding, generate
from rlmec.lm.kv_cache import slots_obstacle

LENGTHS = (9, 3, 1, 14, 6, 2)
LIMIT = 24
NO_END = (-1,)
ROUNDING = 2**-5
"""Of the largest logit: a few roundings of 2^-9, added up over two layers."""


def library(net, prompts):
    """The library's own greedy texts."""
    ids, mask = pad_left(prompts, 0)
    net.generation_config.eos_token_id = None
    arguments = {"do_sample": False, "max_new_tokens": LIMIT, "pad_token_id": 0}
    return net.generate(ids, attention_mask=mask, **arguments)[:, ids.shape[1] :].tolist()


def agreed(net, prompts, ours, theirs):
    """How many texts are equal; where one differs, both tokens are the best but for rounding."""
    equal = 0
    for prompt, one, other in zip(prompts, ours, theirs, strict=True):
        assert len(one) == len(other) == LIMIT
        at = next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), None)
        if at is None:
            equal += 1
            continue
        logits = net(torch.tensor([[*prompt, *one[:at]]])).logits[0, -1].float()
        near = logits.max() - ROUNDING * logits.abs().max()
        assert logits[one[at]] >= near
        assert logits[other[at]] >= near
    return equal


@torch.no_grad()
@pytest.mark.parametrize("how", ["weights", "autocast"])
@pytest.mark.parametrize("kind", FIVE)
def test_texts_are_the_librarys_up_to_rounding(kind, how):
    net, prompts, draw = network(kind, seed=2), ragged_ids(LENGTHS, 3), random.Random(1)
    if how == "weights":
        net = net.to(torch.bfloat16)
    context = torch.autocast("cpu", torch.bfloat16) if how == "autocast" else nullcontext()
    assert slots_obstacle(net) is None
    with context:
        wanted = library(net, prompts)
        plain = generate(net, prompts, Decoding(LIMIT), end_ids=NO_END, pad_id=0)
        drafts = [edited(ids, 3, draw) for ids in wanted]
        drafted = rewrite(net, prompts, drafts, LIMIT, end_ids=NO_END, pad_id=0)
        equal = agreed(net, prompts, [c.ids for c in plain], wanted)
        equal += agreed(net, prompts, [r.completion.ids for r in drafted], wanted)
    assert equal >= len(prompts)  # of twice as many: rounding decides now and then, not mostly
    for completion in [*plain, *(r.completion for r in drafted)]:
        assert all(-50 < value <= 0 for value in completion.logprobs)
    assert [len(r.draft_logprobs) for r in drafted] == [len(d) for d in drafts]
