"""A tokenizer, prompts and networks so small that a test can train them."""

from functools import cache

import torch

from rlmec.lm.loading import new_network
from rlmec.lm.tokenizers import codec, train_tokenizer
from rlmec.prompts import Prompts, Templates
from rlmec.records import Problem

CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEMPLATES = Templates(
    policy="{question}\n",
    rewrite="{question}\nSolution:\n{solution}\nAttempt:\n{attempt}\nCorrected:\n",
    rewrite_answer_only="{question}\nAnswer: {answer}\nAttempt:\n{attempt}\nCorrected:\n",
    locate="{question}\nSolution:\n{solution}\nAttempt:\n{attempt}\nFirst wrong step:\n",
    located="The first error step is [{step}].",
)
PROBLEMS = [
    Problem(
        f"p{i}",
        f"Ann has {i} pens and buys {i + 2}.",
        str(2 * i + 2),
        f"{i} + {i + 2} = {2 * i + 2}\nThe answer is {2 * i + 2}.",
    )
    for i in range(8)
]


@cache
def tokenizer(vocabulary_size=300):
    texts = [text for p in PROBLEMS for text in (p.question, p.solution)]
    return train_tokenizer(texts, vocabulary_size)


def chat_tokenizer():
    """A new tokenizer with marks for the speakers and a chat template."""
    made = train_tokenizer([p.question for p in PROBLEMS], 300)
    made.add_tokens(["<|system|>", "<|user|>", "<|assistant|>"], special_tokens=True)
    made.chat_template = CHAT
    return made


@cache
def prompts():
    return Prompts(TEMPLATES, codec(tokenizer()))


_SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_GROUPED = {**_SHAPE, "num_key_value_heads": 2, "intermediate_size": 48}
# Untied: at random weights and Gemma's scale every token would otherwise be followed by itself.
_GEMMA = {**_GROUPED, "head_dim": 8, "sliding_window": 6, "tie_word_embeddings": False}
SHAPES = {  # by model_type
    "llama": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "mistral": {**_GROUPED, "sliding_window": 6},
    "gemma3_text": {**_GEMMA, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt2": {
        **{"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
        **{"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},  # 0.1 by default
    },
}
FIVE = list(SHAPES)
SHAPES["soft_capped"] = {
    **SHAPES["gemma3_text"],
    "model_type": "gemma3_text",
    "final_logit_softcapping": 2.0,
}
DROPOUT = {"llama": {"attention_dropout": 0.2}, "gpt2": {"attn_pdrop": 0.2, "resid_pdrop": 0.2}}


def network(kind="llama", *, seed=0, dropout=False, **changes):
    """A causal language model over the small vocabulary, at random weights, in eval mode.

    Weights are spread widely, so that greedy texts differ from prompt to prompt. `kind` is a name
    in SHAPES, or another `model_type` that takes the keys of llama.
    """
    shape = {"model_type": kind, "initializer_range": 0.2, **SHAPES.get(kind, _GROUPED), **changes}
    if kind != "gpt2":
        shape = {"max_position_embeddings": 256, **shape}
    if dropout:
        shape |= DROPOUT[kind]
    return new_network(shape, tokenizer(), "sdpa", seed).eval()


def ragged_ids(lengths, seed):
    """Sequences of random ids that are neither PAD nor END (0 and 1)."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(2, len(tokenizer()), (n,), generator=draw).tolist() for n in lengths]
