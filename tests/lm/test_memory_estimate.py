"""The plan of memory: hand-worked numbers of a small shape, and advice that holds."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, LlamaForCausalLM

from rlmec.lm import chunked_head, memory_estimate
from rlmec.lm.memory_estimate import (
    GIB,
    RESERVE,
    FitUse,
    GenerateUse,
    ModelShape,
    Need,
    Weights,
    fit_need,
    generate_need,
    kept_per_token,
    remedies,
    trained_weights,
    weight_bytes,
)
from rlmec.lm.model_sizes import scratch_shape

# Two layers of width 8 with matrices q (8 x 8), k and v (8 x 4), o (8 x 8) and three of 8 x 16;
# 100 words, their embeddings shared with the head. By hand:
#   q: 2 * 64 = 128 weights, inputs 2 * 8 = 16, inputs and outputs 2 * 16 = 32;
#   k, v: 2 * 32 = 64, 16, 2 * 12 = 24;   o as q;   gate, up: 2 * 128 = 256, 16, 2 * 24 = 48;
#   down: 256, 2 * 16 = 32, 48.
SHAPE = ModelShape(
    parameters=1000,
    layers=2,
    hidden=8,
    intermediate=16,
    heads=2,
    attention_width=8,
    kv_width=4,
    vocabulary=100,
    weights={"q": 128, "k": 64, "v": 64, "o": 128, "gate": 256, "up": 256, "down": 256},
    inputs={"q": 16, "k": 16, "v": 16, "o": 16, "gate": 16, "up": 16, "down": 32},
    widths={"q": 32, "k": 24, "v": 24, "o": 32, "gate": 48, "up": 48, "down": 48},
)
FULL, LORA = Weights(), Weights("bfloat16", 3, ["q", "v"])
USE = FitUse(micro_batch=10, longest=5)


def test_what_is_trained():
    """All 1000; with r = 3 on q and v: 3 * (32 + 24) = 168; on all: 3 * 256 = 768."""
    assert trained_weights(SHAPE, FULL) == 1000
    assert trained_weights(SHAPE, LORA) == 168
    assert trained_weights(SHAPE, replace(LORA, target_modules="all-linear")) == 768
    assert trained_weights(SHAPE, replace(LORA, target_modules="down")) == 3 * 48


@pytest.mark.parametrize(
    ("held", "training", "wanted"),
    [
        (FULL, True, 4000),
        (FULL, False, 4000),
        (Weights("bfloat16"), False, 2000),  # used as it is
        (LORA, True, 2000 + 4 * 168),
        (replace(LORA, quantization="int8"), True, 1152 + 2 * (1000 - 1152) + 4 * 168),
        (replace(LORA, quantization="nf4"), True, 1152 * 0.516 + 2 * (1000 - 1152) + 4 * 168),
    ],
)
def test_weights(held, training, wanted):
    """1152 of all weights stand in matrices (here more than 1000: the sum alone is tried)."""
    assert weight_bytes(SHAPE, held, training=training) == pytest.approx(wanted)


def test_a_full_fit_in_float32():
    """4000 each of weights and gradients, 8000 of AdamW's moments.

    A token keeps of a layer 4 * (8 + 2 * 4 + 3 * 16) = 256, of its norms 16 * 8 = 128 and of its
    matrices' inputs, each once, 4 * (2 * 8 + 8 + 16) = 160: 544, of two layers 1088; 10 tokens
    10880, and the mask 3 * 10 * 5 = 150.
    The head at once: min(10, 192) = 10 tokens of 100 words, 3 * 4 * 1000 = 12000, and these 1000
    logits are kept, 4000.
    """
    found = fit_need(SHAPE, FULL, USE)
    assert found == Need(4000, 0, 4000, 8000, 10880 + 150, 16000)
    assert found.total == 4000 + 4000 + 8000 + 11030 + 16000 + RESERVE
    assert fit_need(SHAPE, FULL, replace(USE, moments=1)).optimizer == 4000


def test_a_fit_of_an_adapter_in_half_precision():
    """Gradients 4 * 168 = 672, moments 1344; a token keeps of a layer 2 * (2 * 8 + 2 * 4 + 3 * 16)
    = 144, of its norms 8 * 8 = 64 and of q and v 2 * (2 * 8 + 2 * 3) = 44: 252, of two layers 504;
    ten: 5040, mask 150. Without autocast an adapter casts its inputs to float32."""
    found = fit_need(SHAPE, LORA, replace(USE, mixed=True))
    assert found == Need(2672, 0, 672, 1344, 5040 + 150, 16000)
    plain = fit_need(SHAPE, LORA, USE)
    assert plain.activations == found.activations + 10 * 2 * 44


@pytest.mark.parametrize("held", ["full", "adapter", "adapter of q and v", "adapter in bfloat16"])
@pytest.mark.parametrize(("mixed", "keys"), [(False, 0), (True, 0), (True, 23)])
@pytest.mark.filterwarnings("ignore")
def test_what_layers_keep_is_what_autograd_saves(held, mixed, keys):
    """Counted with the hooks of autograd, each storage once. The estimate lacks the last norm and a
    few numbers per token (variances, the sums of attention)."""
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 6}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50}
    net = LlamaForCausalLM(LlamaConfig(**sizes))
    weights = Weights()
    if held != "full":
        targets = ["q_proj", "v_proj"] if held.endswith("v") else "all-linear"
        dtype = "bfloat16" if held.endswith("16") else "float32"
        net = get_peft_model(net.to(getattr(torch, dtype)), LoraConfig(r=4, target_modules=targets))
        weights = Weights(dtype, 4, targets)
        net = net.get_base_model()
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and len(tensor) in (2, 8, 46):  # not autocast's weights
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    ids = torch.zeros(2, 23, dtype=torch.long)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    kernel = SDPBackend.MATH if keys else SDPBackend.FLASH_ATTENTION
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=mixed), sdpa_kernel(kernel):
        net.model(ids)
    kept = sum(size for size, _ in saved.values()) / 46
    shape = scratch_shape({k: v for k, v in sizes.items() if k != "vocab_size"}, 50)
    assert kept_per_token(shape, weights, mixed, keys) == pytest.approx(kept, rel=0.05)


def test_checkpointing_keeps_one_state_a_layer_and_one_layer():
    """4 * 2 * 8 = 64 and 544 a token."""
    found = fit_need(SHAPE, FULL, replace(USE, checkpointing=True))
    assert found.activations == 10 * (64 + 544) + 150


def test_autocast_copies_float32_weights_and_no_others():
    mixed = replace(USE, mixed=True)
    assert fit_need(SHAPE, FULL, mixed).copies == 2000
    assert fit_need(SHAPE, replace(LORA, dtype="float32"), mixed).copies == 2000
    assert fit_need(SHAPE, LORA, mixed).copies == 0


def test_ranks():
    """Two ranks send gradients in buckets; four that share all hold a quarter, two layers
    (2 * 576 weights) and what is outside the layers (1000 - 1152) whole."""
    assert fit_need(SHAPE, FULL, replace(USE, ranks=2)).gradients == 8000
    cut = fit_need(SHAPE, FULL, replace(USE, ranks=4, sharded=True))
    assert (cut.gradients, cut.optimizer) == (1000, 2000)
    assert cut.weights == 1000 + 4 * (2 * 576 + 1000 - 1152)
    half = fit_need(SHAPE, FULL, replace(USE, ranks=4, sharded_optimizer=True))
    assert (half.weights, half.gradients, half.optimizer) == (4000, 1000, 2000)


def test_many_tokens_are_scored_in_sixteen_parts_and_few_logits_are_kept():
    use = FitUse(micro_batch=16000, longest=100)
    assert fit_need(SHAPE, FULL, use).head == 3 * 4 * 1000 * 100 + 4 * 16000 * 100
    smaller = fit_need(SHAPE, FULL, replace(use, micro_batch=1600)).head
    assert smaller == 3 * 4 * 192 * 100 + 4 * 1600 * 100
    many = fit_need(SHAPE, FULL, replace(use, micro_batch=1_600_000)).head
    assert many == 3 * 4 * 100_000 * 100 + 4 * chunked_head.KEPT_LOGITS
    assert chunked_head.KEPT_LOGITS == memory_estimate.KEPT_LOGITS


def test_decoding():
    """Keys and values of 2 layers, 4 wide, over 30 columns: 2 * 2 * 4 * 30 = 480 numbers; logits of
    6 rows four times in float32: 4 * 4 * 6 * 100."""
    found = generate_need(SHAPE, FULL, GenerateUse(6, 30))
    assert found == Need(weights=4000, head=9600, cache=4 * 480)
    assert generate_need(SHAPE, FULL, GenerateUse(6, 30, half=True)).cache == 2 * 480
    assert generate_need(SHAPE, LORA, GenerateUse(6, 30)).cache == 2 * 480


# --- advice ---

LARGE = replace(
    SHAPE,
    parameters=8 * 10**9,
    layers=32,
    hidden=4096,
    intermediate=14336,
    attention_width=4096,
    kv_width=1024,
    vocabulary=128256,
    weights={"q": 7 * 10**9},
    inputs={"q": 32 * 4096},
    widths={"q": 32 * 8192},
)


@pytest.mark.parametrize("memory", [16, 24, 40, 80, 200])
@pytest.mark.parametrize("held", [FULL, Weights("bfloat16", 16), Weights("float32", 16)])
def test_the_last_setting_of_the_advice_is_the_first_that_fits(held, memory):
    use = FitUse(16384, 2048, mixed=True)
    found = remedies(LARGE, held, use, memory * GIB)
    assert found
    assert float(found[-1].split("(")[1].split(" ")[0]) <= memory
    assert found[0] == "model.gradient_checkpointing=true" + found[0].partition("true")[2]
    more = remedies(LARGE, held, use, memory * GIB / 2)
    assert not more or len(more) >= len(found)


def test_without_a_way_out_nothing_is_advised():
    assert remedies(LARGE, FULL, FitUse(16384, 2048), 2 * GIB) == []


def test_several_ranks_are_told_to_share():
    found = remedies(LARGE, FULL, FitUse(16384, 2048, mixed=True, ranks=8), 40 * GIB)
    assert found[-1].startswith("trainer=fsdp2 (")


def test_a_validation_gathers_sharded_weights_and_can_be_left_out():
    """8e9 weights on 8 ranks: the parts, and everything, in float32."""
    use = FitUse(2048, 2048, checkpointing=True, ranks=8, sharded=True)
    step = fit_need(LARGE, FULL, use)
    judged = fit_need(LARGE, FULL, replace(use, validates=True))
    assert judged.weights == 4e9 + 32e9
    assert (judged.activations, judged.head, judged.optimizer) == (0, 0, step.optimizer)

    memory = (step.total + judged.total) / 2
    advice = remedies(LARGE, FULL, replace(use, validates=True), memory, "grm")
    assert advice == [f"grm.val_problems=0 ({step.total / GIB:.1f} GiB)"]


def test_a_validation_that_needs_little_is_not_what_the_plan_shows():
    use = replace(USE, ranks=4, sharded=True)
    assert fit_need(SHAPE, FULL, replace(use, validates=True)) == fit_need(SHAPE, FULL, use)
