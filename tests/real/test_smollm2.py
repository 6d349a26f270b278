"""A real model's weights: what this project computes is what plain Transformers computes."""

import copy
from dataclasses import replace

import pytest
import small_models
import torch
from torch.nn import functional as F

from rlmec.data.collate import collate
from rlmec.data.row import Row
from rlmec.export.model_folder import export_model
from rlmec.lm.draft_decoding import rewrite
from rlmec.lm.generation import Decoding, generate
from rlmec.lm.loading import codec_of, load_network
from rlmec.lm.logprobs import TokenScorer, score_rows
from rlmec.prompts import Prompts
from rlmec.records import Problem

pytestmark = pytest.mark.slow
QUESTIONS = (
    "Ann has 3 boxes of 12 pens and gives 5 pens away. How many pens does she have?",
    "What is the capital of France?",
    "A train goes 60 km in one hour. How far does it go in 3 hours?",
)
SOLUTIONS = (
    "3 boxes of 12 pens are 3 * 12 = 36 pens. 36 - 5 = 31. The answer is 31",
    "The capital of France is Paris. The answer is Paris",
    "In one hour it goes 60 km, so in 3 hours it goes 3 * 60 = 180 km. The answer is 180",
)
TEMPLATES = replace(small_models.TEMPLATES, policy="{question}\nEnd with The answer is.", chat=True)


@pytest.fixture(scope="module")
def codec(smollm2):
    return codec_of(smollm2, None, turns=True)


@pytest.fixture(scope="module")
def prompts(codec):
    made = Prompts(TEMPLATES, codec)
    return [made.policy(Problem(str(i), text, "1")) for i, text in enumerate(QUESTIONS)]


@pytest.fixture(scope="module")
def rows(prompts, codec):
    return [
        Row.likelihood(str(i), [*prompt, *codec.completion(text)], len(prompt))
        for i, (prompt, text) in enumerate(zip(prompts, SOLUTIONS, strict=True))
    ]


def plain_logprobs(network, rows):
    """Of each row's scored tokens, from the whole logits of one plain forward pass per row."""
    out = []
    for row in rows:
        ids = torch.tensor(row.input_ids)[None]
        with torch.no_grad():
            logprobs = network(input_ids=ids).logits[0].float().log_softmax(-1)
        start = int(row.sources[0])
        out.append(logprobs[start:-1].gather(1, ids[0, start + 1 :, None])[:, 0])
    return torch.cat(out)


def scored(network, rows):
    return torch.tensor([v for row in score_rows(TokenScorer(network), rows, 2) for v in row])


def test_chat_prompts_are_the_ids_of_apply_chat_template(prompts, real_tokenizer):
    for question, ids in zip(QUESTIONS, prompts, strict=True):
        turns = [{"role": "user", "content": f"{question}\nEnd with The answer is."}]
        wanted = real_tokenizer.apply_chat_template(turns, add_generation_prompt=True)
        assert ids == list(wanted["input_ids"])


def test_a_completion_ends_as_the_models_turns_end(codec, real_tokenizer):
    assert codec.completion("Yes.")[-1] == real_tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_greedy_completions_are_those_of_generate(real_network, prompts, codec):
    made = generate(real_network, prompts, Decoding(12), end_ids=codec.end_ids, pad_id=codec.pad_id)
    for prompt, completion in zip(prompts, made, strict=True):
        ids = torch.tensor(prompt)[None]
        wanted = real_network.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            pad_token_id=codec.pad_id,
        )[0, len(prompt) :]
        assert completion.ids == wanted.tolist()


def test_a_draft_changes_nothing(real_network, prompts, codec):
    ids = {"end_ids": codec.end_ids, "pad_id": codec.pad_id}
    plain = generate(real_network, prompts, Decoding(12), **ids)
    drafts = [codec.completion(text) for text in SOLUTIONS]
    made = rewrite(real_network, prompts, drafts, 12, **ids)
    assert [r.completion.ids for r in made] == [c.ids for c in plain]


def test_logprobs_are_those_of_a_plain_forward_pass(real_network, rows):
    torch.testing.assert_close(
        scored(real_network, rows), plain_logprobs(real_network, rows), rtol=0, atol=2e-4
    )


def test_in_bfloat16_they_differ_by_rounding(real_network, rows):
    """Nearer to float32 than a plain forward pass in bfloat16, whose logits are rounded."""
    exact = plain_logprobs(real_network, rows)
    with torch.autocast("cpu", torch.bfloat16):
        ours = scored(real_network, rows)
        plain = plain_logprobs(real_network, rows)
    assert float((ours - exact).abs().mean()) < 0.04
    assert float((ours - exact).abs().mean()) < float((plain - exact).abs().mean())


def gaps(network, rows, old):
    """|log ratio| of rows computed together, as in training, to scores made one by one."""
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        new = TokenScorer(network).eval()(collate(rows, 2, 1.0, 1.0))
    gap = (new - old).abs()
    return float(gap.mean()), float(gap.quantile(0.99))


def test_the_ratio_check_tells_rounding_from_wrong_weights_and_prompts(real_network, rows, codec):
    """The bounds of policy.ratio_tolerance in bfloat16: 0.08 for the mean, 0.8 for the quantile."""
    with torch.autocast("cpu", torch.bfloat16):
        old = torch.cat([scored(real_network, [row]) for row in rows])
    mean, high = gaps(real_network, rows, old)
    assert mean < 0.03
    assert high < 0.3

    shuffled = copy.deepcopy(real_network)
    weight = shuffled.model.layers[10].mlp.down_proj.weight
    order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(0))
    weight.data = weight.data[order]
    assert gaps(shuffled, rows, old)[0] > 0.2

    more = codec.encode("\nSolve: ")
    other = [
        Row.likelihood(row.id, [*more, *row.input_ids], int(row.sources[0]) + 1 + len(more))
        for row in rows
    ]
    mean, high = gaps(real_network, other, old)
    assert mean > 0.08 or high > 0.8


def test_an_export_gives_equal_logits(smollm2, real_network, tmp_path):
    export_model(str(smollm2), tmp_path / "out", card="# card")
    again = load_network(tmp_path / "out")
    ids = torch.arange(100, 120)[None]
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, real_network(input_ids=ids).logits)


def test_the_loss_is_the_mean_of_the_logprobs(real_network, rows):
    """Transformers' own loss over the completion alone, with its labels."""
    row = rows[0]
    ids = torch.tensor(row.input_ids)[None]
    labels = ids.clone()
    labels[0, : int(row.sources[0]) + 1] = -100
    with torch.no_grad():
        wanted = F.cross_entropy(
            real_network(input_ids=ids).logits[0, :-1], labels[0, 1:], ignore_index=-100
        )
    assert float(-scored(real_network, [row]).mean()) == pytest.approx(float(wanted), abs=1e-4)
