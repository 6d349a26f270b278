"""The head part by part: log-probs and gradients of the dense one, without its memory."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rlmec.language import logprobs
from rlmec.language.logprobs import head_nll

COUNT, WIDTH, VOCABULARY = 300, 16, 40


def drawn(bias=False):
    """Head, hidden states, targets and the weight of each log-prob in a loss."""
    draw = torch.Generator().manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=bias)
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(torch.randn(p.shape, generator=draw) / 3)
    hidden = torch.randn(COUNT, WIDTH, generator=draw).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (COUNT,), generator=draw)
    return head, hidden, targets, torch.randn(COUNT, generator=draw)


def results(head, hidden, targets, coefficients):
    hidden.grad = None
    head.zero_grad()
    values = head_nll(head, hidden, targets)
    (values * coefficients).sum().backward()
    return [values.detach(), hidden.grad, *(p.grad.clone() for p in head.parameters())]


def dense(head, hidden, targets, coefficients):
    hidden.grad = None
    head.zero_grad()
    values = F.cross_entropy(head(hidden), targets, reduction="none")
    (values * coefficients).sum().backward()
    return [values.detach(), hidden.grad, *(p.grad.clone() for p in head.parameters())]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("way", ["dense", "fused", "parts"])
def test_every_way_gives_the_dense_values_and_gradients(way, bias, monkeypatch):
    made = drawn(bias)
    wanted = dense(*made)
    monkeypatch.setattr(logprobs, "DENSE_LOGITS", 10**9 if way == "dense" else 0)
    monkeypatch.setattr(logprobs, "LEAST_PART", 64)  # 300 tokens: five parts, the last one ragged
    if way == "fused":
        if not hasattr(F, "linear_cross_entropy"):
            pytest.skip("this torch has no linear_cross_entropy")
        monkeypatch.setattr(logprobs, "_part_nll", None)
    if way == "parts":
        monkeypatch.setattr(logprobs, "_has_fused_form", lambda head, hidden: False)
    got = results(*made)
    assert got[0].dtype == torch.float32
    for one, other in zip(got, wanted, strict=True):
        largest = max(1.0, float(other.abs().max()))
        assert float((one - other).abs().max()) <= 1e-6 * largest


def test_parts_are_a_sixteenth_and_never_tiny(monkeypatch):
    sizes = []

    def part(head, hidden, targets):
        sizes.append(len(targets))
        return torch.zeros(len(targets))

    monkeypatch.setattr(logprobs, "DENSE_LOGITS", 0)
    monkeypatch.setattr(logprobs, "_has_fused_form", lambda head, hidden: False)
    monkeypatch.setattr(logprobs, "_part_nll", part)
    for count, wanted in ((100, [100]), (500, [192, 192, 116]), (4096, [256] * 16)):
        sizes.clear()
        head_nll(nn.Linear(4, 9), torch.zeros(count, 4), torch.zeros(count, dtype=torch.long))
        assert sizes == wanted


def test_in_half_precision_log_probs_stay_float32(monkeypatch):
    """torch's own operation would round them to bfloat16, which is 0.4 % at -1."""
    head, hidden, targets, _ = drawn()
    monkeypatch.setattr(logprobs, "DENSE_LOGITS", 0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        values = head_nll(head, hidden, targets)
        wanted = F.cross_entropy(head(hidden).float(), targets, reduction="none")
    assert values.dtype == torch.float32
    assert float((values - wanted).abs().max()) <= 1e-5


def test_a_head_of_another_kind_is_called_as_it_is(monkeypatch):
    class Doubled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    _, hidden, targets, _ = drawn()
    head = Doubled(WIDTH, VOCABULARY)
    monkeypatch.setattr(logprobs, "DENSE_LOGITS", 0)
    wanted = F.cross_entropy(head(hidden), targets, reduction="none")
    torch.testing.assert_close(head_nll(head, hidden, targets), wanted, rtol=0, atol=1e-6)


def test_without_gradients_nothing_is_kept():
    head, hidden, targets, _ = drawn()
    with torch.no_grad():
        assert not head_nll(head, hidden, targets).requires_grad
