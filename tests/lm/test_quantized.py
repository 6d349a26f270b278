"""Weights in 4 or 8 bits below an adapter (QLoRA), where bitsandbytes is installed."""

import importlib.util
import sys

import pytest
import torch
from small_fits import credited_rows, data_of, module_of
from small_models import network, tokenizer

from rlmec.lm.loading import export_network, load_network, without_packing
from rlmec.lm.lora import with_lora

IDS = torch.tensor([[5, 6, 7, 8, 9]])
needs_library = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


def test_without_the_library_it_is_named(tmp_path, monkeypatch):
    export_network(network(), tokenizer(), tmp_path)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r"quantization=nf4 needs the package bitsandbytes"):
        load_network(tmp_path, quantization="nf4")


def test_weights_are_not_packed_for_inference():
    """Packed weights of bitsandbytes have no gradient."""
    module = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    module[1].support_avx512bf16_for_cpu = True
    without_packing(module)
    assert not module[1].support_avx512bf16_for_cpu
    assert not hasattr(module[0], "support_avx512bf16_for_cpu")


@needs_library
@pytest.mark.parametrize(
    ("quantization", "kind"), [("nf4", "Linear4bit"), ("int8", "Linear8bitLt")]
)
def test_an_adapter_learns_on_it_and_a_checkpoint_holds_it_alone(quantization, kind, tmp_path):
    export_network(network(hidden_size=64, intermediate_size=128), tokenizer(), tmp_path)
    below = load_network(tmp_path, quantization=quantization)
    assert kind in {type(m).__name__ for m in below.modules()}
    near = load_network(tmp_path)(IDS).logits
    assert 0 < (below(IDS).logits - near).abs().max() < near.abs().max()
    net = with_lora(below, r=4, alpha=8.0, seed=1)
    rows = credited_rows(network(), count=6)
    module = module_of(net, data_of(rows, steps=1))
    held = module.state_dict()
    assert held
    assert all(".lora_" in name for name in held)
    module.load_trained(held)
    net.train()(IDS, use_cache=False).logits.logsumexp(-1).sum().backward()
    learnt = {n for n, p in net.named_parameters() if p.grad is not None}
    assert learnt == {n for n, p in net.named_parameters() if p.requires_grad}


@needs_library
def test_gradients_after_a_pass_in_eval_mode_are_those_of_before(tmp_path):
    """A validation between two steps may not change what is learnt."""
    export_network(network(hidden_size=64, intermediate_size=128), tokenizer(), tmp_path)
    net = with_lora(load_network(tmp_path, quantization="nf4"), r=4, alpha=8.0, seed=1)
    for name, weight in net.named_parameters():
        if "lora_B" in name:  # it is 0 at first, and so is the gradient of the other half
            torch.nn.init.normal_(weight, std=0.02)

    def gradients():
        net.train().zero_grad()
        net(IDS, use_cache=False).logits.logsumexp(-1).sum().backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]

    before = gradients()
    with torch.no_grad():
        net.eval()(IDS, use_cache=False)
    assert all(torch.equal(a, b) for a, b in zip(gradients(), before, strict=True))
