"""The head of a language model and its loss, without the logits of all tokens at once.

In: hidden states of chosen tokens [N, D], their targets [N], and the head. Out: -log p of each
target, float32 [N], with gradients; or the entropy at each state.

With a vocabulary of 50,000 and more, logits of a large batch take far more memory than anything
else. So only a part of them is held at a time. The forward pass keeps their sum of exponentials;
the backward pass computes each part again and turns it into gradients immediately. Parts are cut
along the vocabulary, so that each row of the head's gradient is written once, from all tokens. Up
to KEPT_LOGITS logits are kept for the backward pass instead, which saves a quarter of the products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

DENSE_LOGITS = 2**22
"""Up to this many logits are computed at once (16 MiB in float32); changes rounding only."""
KEPT_LOGITS = 2**26
"""Up to this many logits are kept for the backward pass (256 MiB in float32); changes no bit."""
PARTS = 32
LEAST_PART = 2**20
LEAST_GPU_PART = 2**23
"""More logits are cut into about PARTS parts of at least LEAST_PART logits; on a GPU of at least
LEAST_GPU_PART, because there the time of a small part goes into starting its kernels."""
FEW_ROWS = 32
LARGE_HEAD = 2**22
BLOCK = 256
"""On a CPU, up to FEW_ROWS states meet a head of LARGE_HEAD weights or more in blocks of BLOCK
tokens of the vocabulary."""


# --- from states to logits ---


@dataclass(frozen=True)
class HeadForm:
    """How a network turns the output of its head into logits.

    The output is multiplied by `scale`; with a soft `cap` it becomes cap * tanh(output / cap).
    """

    scale: float = 1.0
    cap: float | None = None

    def logits(self, output: torch.Tensor) -> torch.Tensor:
        """Float32 logits of the output of the head."""
        logits = output.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.cap is not None:
            logits = self.cap * torch.tanh(logits / self.cap)
        return logits

    def backward(self, gradient: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Turns the gradient of the logits into that of the head's output, in place."""
        if self.cap is not None:
            gradient *= 1 - (logits / self.cap) ** 2  # the derivative of tanh is 1 - tanh^2
        if self.scale != 1.0:
            gradient *= self.scale
        return gradient


PLAIN = HeadForm()


def head_output(head: Any, states: torch.Tensor) -> torch.Tensor:
    """`head(states)` for states [N, D], without gradients faster on a CPU: [N, V].

    For a few states and one tall matrix, BLAS on a CPU takes two to four times as long as for a
    batch of blocks of the matrix.
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


# --- loss and entropy ---


def head_nll(
    head: Any, hidden: torch.Tensor, targets: torch.Tensor, form: HeadForm = PLAIN
) -> torch.Tensor:
    """-log p of each target: states [N, D] and targets [N] give float32 [N].

    Few logits are computed at once, many part by part, forward and backward. If the head is a plain
    matrix, the parts are cut along the vocabulary. Otherwise (adapters, quantized weights) they are
    cut along the tokens, and each part goes through the head itself. Matrices are multiplied in the
    dtype of autocast, but the logits that matter most are computed in the weights' own (`_output`);
    all else is float32.
    """
    count = len(targets)
    vocabulary = head.weight.shape[0]
    device = hidden.device.type
    mixed = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if mixed else hidden.dtype
    is_plain = type(head) is nn.Linear
    if count * vocabulary <= DENSE_LOGITS:
        exact = is_plain and dtype != torch.float32
        return _dense_nll(_in_float32(head) if exact else head, hidden, targets, form)

    if is_plain:
        keep = torch.is_grad_enabled() and count * vocabulary <= KEPT_LOGITS
        return _VocabularyParts.apply(hidden, head.weight, head.bias, targets, form, dtype, keep)

    part = max(1, count // PARTS, LEAST_PART // vocabulary)
    pieces = zip(hidden.split(part), targets.split(part), strict=True)
    return torch.cat([_recomputed_nll(head, h, y, form) for h, y in pieces])


@torch.no_grad()
def head_entropy(head: Any, hidden: torch.Tensor, form: HeadForm = PLAIN) -> torch.Tensor:
    """Entropy (nats) of the next-token distribution at each state [N, D]: float32 [N].

    At most DENSE_LOGITS logits are held at once.
    """
    part = max(1, DENSE_LOGITS // head.weight.shape[0])
    return torch.cat([entropy(form.logits(head(states))) for states in hidden.split(part)])


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy (nats) of softmax(logits) for logits [N, V]: float32 [N], with 0 log 0 = 0."""
    return torch.special.entr(logits.float().softmax(-1)).sum(-1)


def _recomputed_nll(
    head: Any, hidden: torch.Tensor, targets: torch.Tensor, form: HeadForm
) -> torch.Tensor:
    """As `_dense_nll`, computed again in the backward pass with the same dropout."""
    if not torch.is_grad_enabled():
        return _dense_nll(head, hidden, targets, form)
    return checkpoint(_dense_nll, head, hidden, targets, form, use_reentrant=False)


def _in_float32(head: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    """The head as a float32 product of float32 copies, whatever autocast says."""

    def output(states: torch.Tensor) -> torch.Tensor:
        with torch.autocast(states.device.type, enabled=False):
            bias = None if head.bias is None else head.bias.float()
            return F.linear(states.float(), head.weight.float(), bias)

    return output


def _dense_nll(
    head: Any, hidden: torch.Tensor, targets: torch.Tensor, form: HeadForm
) -> torch.Tensor:
    return F.cross_entropy(form.logits(head(hidden)), targets, reduction="none")  # [N]


class _VocabularyParts(torch.autograd.Function):
    """-log softmax(form(hidden @ weight.T + bias)) at the targets, by parts of the vocabulary.

    `dtype` is that in which matrices are multiplied. With `keep` the backward pass reuses the
    outputs of the head.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        form: HeadForm,
        dtype: torch.dtype,
        keep: bool,
    ) -> torch.Tensor:
        target_logits = torch.zeros(len(targets), device=hidden.device)  # [N]
        sums = []
        kept = []
        states = hidden.to(dtype)
        for start, stop in _parts(states, len(weight)):
            output = _output(hidden, states, weight, bias, targets, start, stop)  # [N, part]
            logits = form.logits(output)
            sums.append(logits.logsumexp(-1))
            column, inside = _target_columns(targets, start, stop)
            target_logits += logits.gather(1, column)[:, 0] * inside
            if keep:
                kept.append(output)

        # Without the outputs, all that the backward pass needs of them is their log-sum-exp.
        total = torch.stack(sums).logsumexp(0)  # [N]
        ctx.save_for_backward(hidden, weight, bias, targets, total, *kept)
        ctx.form = form
        ctx.dtype = dtype
        return total - target_logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        hidden, weight, bias, targets, total, *kept = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]

        # The gradient of the states is a sum over all parts, so it is added up in float32.
        of_hidden = torch.zeros_like(hidden, dtype=torch.float32)  # [N, D]
        of_weight = torch.empty_like(weight) if needs_weight else None  # [V, D]
        of_bias = torch.empty_like(bias) if needs_bias else None  # [V]

        states = hidden.to(ctx.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for index, (start, stop) in enumerate(_parts(states, len(weight))):
                if kept:
                    output = kept[index]  # [N, part]
                else:
                    output = _output(hidden, states, weight, bias, targets, start, stop)
                of_output = _output_gradient(
                    ctx.form, output, targets, total, gradient, start, stop
                )  # [N, part]
                if of_bias is not None:
                    of_bias[start:stop] = of_output.sum(0)
                of_output = of_output.to(ctx.dtype)
                if needs_hidden:
                    of_hidden += of_output @ weight[start:stop].to(ctx.dtype)
                if of_weight is not None:
                    of_weight[start:stop] = of_output.T @ states

        own = of_hidden.to(hidden.dtype) if needs_hidden else None
        return own, of_weight, of_bias, None, None, None, None


def _parts(states: torch.Tensor, vocabulary: int) -> Iterator[tuple[int, int]]:
    """Bounds of the parts of the vocabulary for states [N, D]."""
    least = LEAST_PART if states.device.type == "cpu" else LEAST_GPU_PART
    part = max(1, -(-vocabulary // PARTS), least // max(len(states), 1))
    return ((start, min(start + part, vocabulary)) for start in range(0, vocabulary, part))


def _output(
    hidden: torch.Tensor,
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    start: int,
    stop: int,
) -> torch.Tensor:
    """The head's output for one part of the vocabulary: [N, stop - start].

    `states` are the `hidden` states in the dtype in which matrices are multiplied. A product in
    bfloat16 rounds an output near 20 by up to 0.06, and a log-prob by as much. Almost all of that
    comes from few tokens: the target and the likeliest ones. So the outputs of the target and of
    the likeliest token of the part are computed again in float32.
    """
    part_bias = None if bias is None else bias[start:stop]
    if states.dtype == torch.float32:
        return F.linear(states, weight[start:stop], part_bias)

    rounded = None if part_bias is None else part_bias.to(states.dtype)
    output = F.linear(states, weight[start:stop].to(states.dtype), rounded).float()
    column, _ = _target_columns(targets, start, stop)
    exact = torch.cat([column, output.argmax(-1, keepdim=True)], 1)  # [N, 2]
    rows = weight[start:stop][exact].float()  # [N, 2, D]
    with torch.autocast(hidden.device.type, enabled=False):
        values = (rows @ hidden.float()[:, :, None])[:, :, 0]  # [N, 2]
    if part_bias is not None:
        values = values + part_bias[exact]
    return output.scatter_(1, exact, values)


def _target_columns(
    targets: torch.Tensor, start: int, stop: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The targets' columns [N, 1] in one part, and whether each target lies in it, [N].

    A target outside the part gets a column of the part; what is read or written there counts 0.
    """
    inside = (targets >= start) & (targets < stop)
    return (targets - start).clamp(0, stop - start - 1)[:, None], inside


def _output_gradient(
    form: HeadForm,
    output: torch.Tensor,
    targets: torch.Tensor,
    total: torch.Tensor,
    gradient: torch.Tensor,
    start: int,
    stop: int,
) -> torch.Tensor:
    """Gradient of the head's output of one part, float32 [N, stop - start].

    It is p - 1 at the target and p elsewhere, times the gradient of the token's loss.
    """
    logits = form.logits(output)
    part = (logits - total[:, None]).exp_()  # p
    column, inside = _target_columns(targets, start, stop)
    part.scatter_add_(1, column, -inside[:, None].to(part.dtype))
    part *= gradient[:, None]
    return form.backward(part, logits)


# --- what a network does with the output of its head ---


@torch.no_grad()
def head_form(network: Any) -> HeadForm | None:
    """How the network turns the output of its head into logits.

    None if that is no `HeadForm`, or if the head gets something else than the decoder's states.

    The answer comes from one forward pass in which the output of the head is replaced by large
    numbers. It therefore does not depend on the weights: at small logits a soft cap changes almost
    nothing.
    """
    decoder = network.get_decoder()
    head = network.get_output_embeddings()
    if decoder is None or head is None or decoder is network:
        return None
    config = network.config.get_text_config()
    device = next(network.parameters()).device
    ids = torch.arange(4, device=device)[None] % config.vocab_size
    head_inputs: list[torch.Tensor] = []
    head_outputs: list[torch.Tensor] = []

    def replace_output(
        _: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor
    ) -> torch.Tensor:
        large = torch.linspace(-100, 100, output.numel(), device=device).view_as(output)
        head_inputs.append(inputs[0])
        head_outputs.append(large.to(output.dtype))
        return head_outputs[0]

    handle = head.register_forward_hook(replace_output)
    try:
        with evaluating(network):
            logits = network(input_ids=ids, use_cache=False).logits
            hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        handle.remove()

    if not torch.allclose(head_inputs[0], hidden, atol=1e-5):
        return None
    output = head_outputs[0]
    if torch.equal(logits, output):
        return PLAIN

    # Guess the form from one value or from the configuration, then compare all values with it.
    scale = float(logits.flatten()[-1]) / float(output.flatten()[-1])
    cap = getattr(config, "final_logit_softcapping", None)
    form = HeadForm(scale) if cap is None else HeadForm(cap=float(cap))
    rounding = 1e-5 if logits.dtype == torch.float32 else 1e-2
    same = torch.allclose(form.logits(output), logits.float(), rtol=rounding, atol=rounding)
    return form if same else None


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module in eval mode inside the block, and then back, also after an error."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
