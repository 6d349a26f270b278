"""The head and its loss, a part of the vocabulary at a time: forward and backward without logits.

In: hidden states of the chosen tokens, and the head. Out: -log p of each target, float32. Of the
logits only one part is held at any time: the forward pass keeps their sum of exponentials, the
backward pass computes each part anew and turns it into gradients at once. Parts are cut along the
vocabulary, so that each row of the head's gradient is written once, from all tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

DENSE_LOGITS = 2**22
"""Up to so many logits at once are computed plainly (16 MiB in float32); changes rounding only."""
PARTS, LEAST_PART = 32, 2**20
"""More are cut into about PARTS parts of at least LEAST_PART logits."""
FEW_ROWS, LARGE_HEAD, BLOCK = 32, 2**22, 256
"""Up to FEW_ROWS rows meet a head of LARGE_HEAD weights or more in blocks of BLOCK tokens."""


@dataclass(frozen=True)
class HeadForm:
    """What a network makes of its head's output: `scale` times it, then `cap` * tanh(. / cap)."""

    scale: float = 1.0
    cap: float | None = None

    def logits(self, output: torch.Tensor) -> torch.Tensor:
        """Float32 logits of the head's output."""
        logits = output.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def chain(self, gradient: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The gradient of the output from that of the logits, in place."""
        if self.cap is not None:
            gradient *= 1 - (logits / self.cap) ** 2
        return gradient if self.scale == 1.0 else gradient.mul_(self.scale)


PLAIN = HeadForm()


def head_output(head: Any, states: torch.Tensor) -> torch.Tensor:
    """`head(states)` for states [N, D]; large matrices and few rows by blocks on a processor.

    There BLAS takes two to four times as long for one tall matrix as for a batch of its blocks.
    """
    few = states.device.type == "cpu" and len(states) <= FEW_ROWS
    matrix = type(head) is nn.Linear and head.bias is None and head.weight.numel() >= LARGE_HEAD
    if not (few and matrix) or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return head(states)
    count = len(head.weight) // BLOCK
    blocks = head.weight[: count * BLOCK].view(count, BLOCK, -1)  # [C, BLOCK, D]
    parts = torch.matmul(states, blocks.transpose(1, 2)).transpose(0, 1)  # [N, C, BLOCK]
    rest = F.linear(states, head.weight[count * BLOCK :])  # [N, V - C * BLOCK]
    return torch.cat([parts.reshape(len(states), -1), rest], 1)


def head_nll(
    head: Any, hidden: torch.Tensor, targets: torch.Tensor, form: HeadForm = PLAIN
) -> torch.Tensor:
    """-log p of each target under a head: [N, D], [N] -> float32 [N].

    Few logits are computed plainly. Many are computed part by part, forward and backward: of the
    vocabulary where the head is a plain matrix, else (adapters, quantised weights) of the tokens,
    each part through the head itself. Matrices are multiplied in autocast's type, the rest is
    float32.
    """
    count, vocabulary = len(targets), head.weight.shape[0]
    if count * vocabulary <= DENSE_LOGITS:
        return _nll(head, hidden, targets, form)
    if type(head) is nn.Linear:
        device = hidden.device.type
        mixed = torch.is_autocast_enabled(device)
        kind = torch.get_autocast_dtype(device) if mixed else hidden.dtype
        return _VocabularyParts.apply(hidden, head.weight, head.bias, targets, form, kind)
    part = max(1, count // PARTS, LEAST_PART // vocabulary)
    pieces = zip(hidden.split(part), targets.split(part), strict=True)
    return torch.cat([_again(head, h, y, form) for h, y in pieces])


@torch.no_grad()
def head_entropy(head: Any, hidden: torch.Tensor, form: HeadForm = PLAIN) -> torch.Tensor:
    """Entropy (nats) of the distribution at each state: [N, D] -> float32 [N], no more than
    DENSE_LOGITS logits at once."""
    part = max(1, DENSE_LOGITS // head.weight.shape[0])
    return torch.cat([entropy(form.logits(head(states))) for states in hidden.split(part)])


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """H = -sum_v p_v log p_v, p = softmax(logits), 0 log 0 = 0: [N, V] -> float32 [N], nats."""
    return torch.special.entr(logits.float().softmax(-1)).sum(-1)


def _again(head: Any, hidden: torch.Tensor, targets: torch.Tensor, form: HeadForm) -> torch.Tensor:
    """A part of the tokens, recomputed in the backward pass (with the same dropout)."""
    if not torch.is_grad_enabled():
        return _nll(head, hidden, targets, form)
    return checkpoint(_nll, head, hidden, targets, form, use_reentrant=False)


def _nll(head: Any, hidden: torch.Tensor, targets: torch.Tensor, form: HeadForm) -> torch.Tensor:
    return F.cross_entropy(form.logits(head(hidden)), targets, reduction="none")  # [N]


class _VocabularyParts(torch.autograd.Function):
    """-log softmax(form(hidden @ weight.T + bias)) at the targets."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        form: HeadForm,
        kind: torch.dtype,
    ) -> torch.Tensor:
        own = torch.zeros(len(targets), device=hidden.device)  # [N]
        sums = []
        states = hidden.to(kind)
        for start, stop in _parts(len(states), len(weight)):
            logits = form.logits(_output(states, weight, bias, start, stop))  # [N, part]
            sums.append(logits.logsumexp(-1))
            place, inside = _place(targets, start, stop)
            own += logits.gather(1, place)[:, 0] * inside
        total = torch.stack(sums).logsumexp(0)  # [N]
        ctx.save_for_backward(hidden, weight, bias, targets, total)
        ctx.form, ctx.kind = form, kind
        return total - own

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        hidden, weight, bias, targets, total = ctx.saved_tensors
        to_hidden, to_weight, to_bias = ctx.needs_input_grad[:3]
        of_hidden = torch.zeros_like(hidden, dtype=torch.float32)  # [N, D]
        of_weight = torch.empty_like(weight) if to_weight else None  # [V, D]
        of_bias = torch.empty_like(bias) if to_bias else None  # [V]
        states = hidden.to(ctx.kind)
        with torch.autocast(hidden.device.type, enabled=False):
            for start, stop in _parts(len(states), len(weight)):
                output = _output(states, weight, bias, start, stop)
                part = _gradient(ctx.form, output, targets, total, gradient, start, stop)
                if of_bias is not None:
                    of_bias[start:stop] = part.sum(0)
                part = part.to(ctx.kind)
                if to_hidden:
                    of_hidden += part @ weight[start:stop].to(ctx.kind)
                if of_weight is not None:
                    of_weight[start:stop] = part.T @ states
        return of_hidden.to(hidden.dtype) if to_hidden else None, of_weight, of_bias, *[None] * 3


def _parts(count: int, vocabulary: int) -> Iterator[tuple[int, int]]:
    """Bounds of the parts of the vocabulary."""
    part = max(1, -(-vocabulary // PARTS), LEAST_PART // max(count, 1))
    return ((start, min(start + part, vocabulary)) for start in range(0, vocabulary, part))


def _output(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, start: int, stop: int
) -> torch.Tensor:
    """The head's output [N, stop - start] of a part of the vocabulary."""
    some = None if bias is None else bias[start:stop].to(states.dtype)
    return F.linear(states, weight[start:stop].to(states.dtype), some)


def _place(targets: torch.Tensor, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns [N, 1] of the targets in a part, and which of them [N] are in it."""
    inside = (targets >= start) & (targets < stop)
    return (targets - start).clamp(0, stop - start - 1)[:, None], inside


def _gradient(
    form: HeadForm,
    output: torch.Tensor,
    targets: torch.Tensor,
    total: torch.Tensor,
    gradient: torch.Tensor,
    start: int,
    stop: int,
) -> torch.Tensor:
    """Gradient of the head's output, float32 [N, stop - start]: (p - 1 at the target) times the
    token's own."""
    logits = form.logits(output)
    part = (logits - total[:, None]).exp_()
    place, inside = _place(targets, start, stop)
    part.scatter_add_(1, place, -inside[:, None].to(part.dtype))
    part *= gradient[:, None]
    return form.chain(part, logits)


@torch.no_grad()
def head_form(network: Any) -> HeadForm | None:
    """What the network makes of its head's output, None where that is no `HeadForm` or where the
    head is not given the decoder's states as they are.

    The head's output is replaced by large numbers on the way, so that the answer does not depend on
    the weights: at small logits a soft cap is hardly seen.
    """
    decoder, head = network.get_decoder(), network.get_output_embeddings()
    if decoder is None or head is None or decoder is network:
        return None
    config, device = network.config.get_text_config(), next(network.parameters()).device
    ids = torch.arange(4, device=device)[None] % config.vocab_size
    seen: list[torch.Tensor] = []

    def replaced(_: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        large = torch.linspace(-100, 100, output.numel(), device=device).view_as(output)
        seen.extend([inputs[0], large.to(output.dtype)])
        return seen[1]

    handle = head.register_forward_hook(replaced)
    try:
        with evaluating(network):
            logits = network(input_ids=ids, use_cache=False).logits
            hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        handle.remove()
    if not torch.allclose(seen[0], hidden, atol=1e-5):
        return None
    if torch.equal(logits, seen[1]):
        return PLAIN
    scale = float(logits.flatten()[-1]) / float(seen[1].flatten()[-1])
    cap = getattr(config, "final_logit_softcapping", None)
    found = HeadForm(scale) if cap is None else HeadForm(cap=float(cap))
    rounding = 1e-5 if logits.dtype == torch.float32 else 1e-2
    same = torch.allclose(found.logits(seen[1]), logits.float(), rtol=rounding, atol=rounding)
    return found if same else None


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside, and the mode that was, also after an error."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
