"""Fits of an adapter: what is checked on the way, and what a checkpoint is refused for."""

import pytest
import torch
from small_fits import adapted_network, credited_rows, data_of, fitted, module_of, weights_of
from small_models import network

from rlmec.lm.lora import merged, with_lora


def test_dropout_of_the_adapter_is_off_in_the_check_of_the_ratio(tmp_path):
    net = adapted_network(dropout=0.5)
    torch.manual_seed(0)
    for name, weight in net.named_parameters():
        if "lora_B" in name:  # else the adapter, and its dropout, would change nothing
            torch.nn.init.normal_(weight, std=0.1)
    data = data_of(credited_rows(net), steps=1, accumulate=2)
    module, _ = fitted(tmp_path, net, data, ratio_tolerance=1e-4)
    assert module.trainer.global_step == 1


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_an_adapter_of_full_rank_learns_what_its_merged_network_is(kind, tmp_path):
    """After a fit the merged network is the adapted one; the weights below never moved."""
    net = with_lora(network(kind, seed=1), r=4, alpha=8.0, seed=2)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    data = data_of(credited_rows(net))
    module, _ = fitted(tmp_path, net, data, ratio_tolerance=1e-4)
    after = weights_of(module)
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved == {n for n, p in net.named_parameters() if p.requires_grad}
    ids = torch.tensor([[5, 6, 7, 8]])
    wanted = module.network.eval()(ids).logits
    torch.testing.assert_close(merged(module.network)(ids).logits, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"target_modules": ["c_attn"]}, r"has .*c_proj.*, which is not trained here \(12 w"),
        ({"target_modules": ["c_attn", "c_proj", "c_fc", "lm_head"]}, "has no .*lm_head.*missing"),
    ],
)
def test_a_checkpoint_of_another_adapter_is_refused_by_name(changes, named):
    data = data_of(credited_rows(network("gpt2", seed=5), count=6), steps=1)
    state = module_of(adapted_network(), data).state_dict()
    untied = network("gpt2", seed=5, tie_word_embeddings=False)
    other = module_of(with_lora(untied, r=4, alpha=8.0, **changes), data)
    with pytest.raises(ValueError, match=named):
        other.on_load_checkpoint({"state_dict": state})
    with pytest.raises(ValueError, match=named):
        other.load_trained(state)


def test_a_full_checkpoint_holds_everything_and_names_count_there_too():
    data = data_of(credited_rows(network(seed=5), count=6), steps=1)
    module = module_of(network(seed=5), data)
    state = module.state_dict()
    assert set(state) == {f"net.network.{name}" for name in network(seed=5).state_dict()}
    assert module.strict_loading
    module.load_trained(state)
    del state["net.network.lm_head.weight"]
    with pytest.raises(ValueError, match=r"no net\.network\.lm_head\.weight \(1 of \d+ trained"):
        module.on_load_checkpoint({"state_dict": state})
