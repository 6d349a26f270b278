"""Weight decay is for matrices: not for norms, biases and embeddings."""

from functools import partial

import pytest
import torch
from small_fits import CONSTANT, credited_rows, data_of, module_of
from small_models import network

from rlmec.lm.lora import with_lora
from rlmec.training.module import decay_groups

LR, DECAY = 0.1, 0.5
SGD = partial(torch.optim.SGD, lr=LR, weight_decay=DECAY)


def optimizer_of(net, optimizer=SGD):
    data = data_of(credited_rows(network("gpt2")))
    module = module_of(net, data, optimizer=optimizer, scheduler=CONSTANT)
    return module.configure_optimizers()["optimizer"]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text"])
def test_a_step_without_gradient_shrinks_the_matrices_alone(kind, tied):
    """w -> w (1 - lr decay) = 0.95 w for matrices; a tied head is the embedding."""
    net = network(kind, tie_word_embeddings=tied).requires_grad_(True)
    before = {name: w.detach().clone() for name, w in net.named_parameters()}
    optimizer = optimizer_of(net)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    matrices = ("_proj.weight", "c_attn.weight", "c_proj.weight", "c_fc.weight", "lm_head.weight")
    shrunk = {name for name, w in net.named_parameters() if not torch.equal(w, before[name])}
    assert shrunk == {name for name in before if name.endswith(matrices)}
    assert ("lm_head.weight" in shrunk) is not tied
    for name, weight in net.named_parameters():
        factor = 1 - LR * DECAY if name in shrunk else 1.0
        torch.testing.assert_close(weight.detach(), before[name] * factor)


def test_all_trained_weights_are_in_one_group_without_weight_decay():
    """So that sums over the weights (the norm for clipping) are taken in the same order."""
    net = network()
    for optimizer in (partial(SGD, weight_decay=0.0), partial(torch.optim.Rprop, lr=LR)):
        [group] = optimizer_of(net, optimizer).param_groups
        assert list(map(id, group["params"])) == list(map(id, net.parameters()))


def test_an_adapter_is_made_of_matrices_and_what_is_frozen_is_in_no_group():
    net = with_lora(network(), r=2, alpha=4.0)
    [group] = decay_groups(net)
    assert "weight_decay" not in group
    assert len(group["params"]) == sum(p.requires_grad for p in net.parameters())
    [group] = optimizer_of(net).param_groups
    assert group["weight_decay"] == DECAY
