"""Weights in 4 or 8 bits below an adapter (QLoRA), where bitsandbytes is installed."""

import importlib.util
import sys

import pytest
import torch
from small_fits import credited_rows, data_of, module_of
from small_models import network, tokenizer

from rlmec.lm.loading import export_network, load_network
from rlmec.lm.lora import with_lora
from rlmec.training.module import _belongs_to

IDS = torch.tensor([[5, 6, 7, 8, 9]])
HAS_LIBRARY = importlib.util.find_spec("bitsandbytes") is not None


def test_without_the_library_it_is_named(tmp_path, monkeypatch):
    export_network(network(), tokenizer(), tmp_path)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r"quantization=nf4 needs the package bitsandbytes"):
        load_network(tmp_path, quantization="nf4")


@pytest.mark.skipif(not HAS_LIBRARY, reason="bitsandbytes is not installed")
def test_an_adapter_learns_on_nf4_and_a_checkpoint_holds_it_alone(tmp_path):
    export_network(network(hidden_size=64, intermediate_size=128), tokenizer(), tmp_path)
    below = load_network(tmp_path, quantization="nf4")
    kinds = {type(m).__name__ for m in below.modules()}
    assert "Linear4bit" in kinds
    near = load_network(tmp_path)(IDS).logits
    assert 0 < (below(IDS).logits - near).abs().max() < near.abs().max()
    net = with_lora(below, r=4, alpha=8.0, seed=1)
    rows = credited_rows(network(), count=6)
    module = module_of(net, data_of(rows, steps=1))
    held = module.state_dict()
    assert held
    assert all(".lora_" in name for name in held)
    net.train()(IDS, use_cache=False).logits.logsumexp(-1).sum().backward()
    learnt = {n for n, p in net.named_parameters() if p.grad is not None}
    assert learnt == {n for n, p in net.named_parameters() if p.requires_grad}


def test_what_quantizing_puts_beside_a_weight_belongs_to_it():
    frozen = {"net.q_proj.weight"}
    assert _belongs_to("net.q_proj.weight", frozen)
    assert _belongs_to("net.q_proj.weight.quant_state.bitsandbytes__nf4", frozen)
    assert not _belongs_to("net.q_proj.bias", frozen)
    assert not _belongs_to("net.q_proj.weight_norm", frozen)
