"""`model.compile`: layers compiled one by one train as they do uncompiled, and resume exactly."""

from types import SimpleNamespace

import pytest
import torch
from small_fits import credited_rows, data_of, fitted, run_of, validation_of, weights_of
from small_models import network
from torch import nn

from rlmec.lm.compiled import compiled_layers
from rlmec.method.objectives import rlmec_clipped
from rlmec.pipeline.early_check import check_compiler


class Stopped(Exception):
    pass


def trained(folder, *, compiled, stop_at=None):
    """The weights after four steps with validations; with `stop_at` after an interruption there."""
    calls = iter(range(1, 100))

    def objective(tokens):
        if next(calls) == stop_at:
            raise Stopped
        return rlmec_clipped(tokens)

    net = network(seed=1)
    data = data_of(credited_rows(net), steps=4)
    run = run_of(compiled=compiled, save_every=2)
    arguments = {"run": run, "validation": validation_of(folder), "objective": objective}
    module, _ = fitted(folder, net, data, **arguments)
    assert not any("forward" in vars(part) for part in net.modules()), "still compiled"
    return weights_of(module)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of PyTorch, about its own code
def test_compiled_layers_train_as_before_and_resume_to_the_same_bits(tmp_path):
    plain = trained(tmp_path / "plain", compiled=False)
    whole = trained(tmp_path / "whole", compiled=True)
    for name, weight in plain.items():
        torch.testing.assert_close(whole[name], weight, rtol=0, atol=2e-6, msg=name)

    with pytest.raises(Stopped):
        trained(tmp_path / "cut", compiled=True, stop_at=4)
    torch._dynamo.reset()  # as in a new process: the first batch has another length than before
    resumed = trained(tmp_path / "cut", compiled=True)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_only_where_gradients_are_computed(monkeypatch):
    seen = []

    def watched(forward, *, dynamic):
        assert dynamic, "every length would be compiled anew"
        return lambda *args, **kwargs: seen.append(1) or forward(*args, **kwargs)

    monkeypatch.setattr(torch, "compile", watched)
    net = network("gpt2", seed=1)
    ids = torch.tensor([[5, 6, 7]])
    with compiled_layers(net):
        net(ids)
        with torch.no_grad():
            net(ids)
    net(ids)
    assert len(seen) == net.config.num_hidden_layers


def test_a_network_without_layers_of_transformers_is_refused():
    refused = pytest.raises(ValueError, match=r"model\.compile: Linear has no layers to compile")
    with refused, compiled_layers(nn.Linear(2, 2)):
        pass


def test_a_missing_compiler_is_named_before_anything_is_paid_for(monkeypatch):
    trainer = SimpleNamespace(accelerator=None)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"no compiler was found: install g\+\+, .* in CXX"):
        check_compiler(trainer)
    monkeypatch.setenv("CXX", "sh")
    check_compiler(trainer)
