"""The memory that a run will need on one device, computed from sizes and settings alone.

In: the sizes of a model (`ModelShape`, made by `model_sizes`) and how a stage uses it. Out: bytes
by kind, and settings that would reduce them. Weights, gradients, moments and cache follow from
counts and are exact. Activations are an estimate of what is kept for the backward pass. RESERVE is
for all that a process holds besides. Nothing is loaded, and no device is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from rlmec.lm.chunked_head import KEPT_LOGITS

GIB = 2**30
RESERVE = GIB
"""The CUDA context, gaps of the allocator, and the work space of libraries."""
BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "nf4": 0.516, "int8": 1.0}
"""Bytes of one weight. nf4 has 4 bits per weight, a scale of 8 bits per 64 weights, and a scale of
32 bits per 256 of those scales: 0.5 + 1 / 64 + 4 / (64 * 256)."""
HEAD_PARTS = 16
LEAST_PART = 192
"""Logits of the head are estimated for 1 / HEAD_PARTS of the tokens, at least LEAST_PART tokens."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a causal language model.

    `weights`, `inputs` and `widths` are by the last part of the names of its matrices ("q_proj"):
    the number of weights, of inputs, and of inputs plus outputs, summed over all layers.
    """

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    attention_width: int
    kv_width: int
    vocabulary: int
    weights: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)

    def adapted(self, target_modules: list[str] | str) -> list[str]:
        """The names of the matrices that an adapter would change."""
        if target_modules == "all-linear":
            return sorted(self.widths)
        wanted = [target_modules] if isinstance(target_modules, str) else target_modules
        return [name for name in wanted if name in self.widths]


@dataclass(frozen=True)
class Weights:
    """How a model is held: `dtype` of frozen weights, an adapter of rank `r` (0: none, and all
    weights are trained in float32), `quantization` of the matrices that the adapter changes."""

    dtype: str = "float32"
    r: int = 0
    target_modules: list[str] | str = "all-linear"
    quantization: str | None = None


@dataclass(frozen=True)
class FitUse:
    """How a fit uses a device.

    `micro_batch` and `longest` are tokens of a micro-batch and of its longest row, `mixed` is
    half-precision arithmetic, `composed` is the length of rows up to which attention keeps its
    probabilities (0: never), and `moments` are the numbers that the optimizer keeps per weight.
    Ranks divide weights, gradients and moments among them if `sharded`, and the latter two only if
    `sharded_optimizer`. `validates` is whether completions are written between steps.
    """

    micro_batch: int
    longest: int
    mixed: bool = False
    composed: int = 0
    checkpointing: bool = False
    moments: int = 2
    ranks: int = 1
    sharded: bool = False
    sharded_optimizer: bool = False
    validates: bool = False


@dataclass(frozen=True)
class GenerateUse:
    """Rows that are decoded at once, and the columns of their cache together."""

    rows: int
    columns: int
    half: bool = False


@dataclass(frozen=True)
class Need:
    """Bytes on one device, by kind. `process` is what a process holds before any weights are
    loaded, where the device is the CPU."""

    weights: float = 0.0
    copies: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    head: float = 0.0
    cache: float = 0.0
    process: float = 0.0

    @property
    def total(self) -> float:
        return sum(getattr(self, f.name) for f in fields(self)) + RESERVE


def trained_weights(shape: ModelShape, held: Weights) -> int:
    """The number of weights that are trained: all, or r * (in + out) per adapted matrix."""
    if held.r == 0:
        return shape.parameters
    return held.r * sum(shape.widths[name] for name in shape.adapted(held.target_modules))


def weight_bytes(shape: ModelShape, held: Weights, *, training: bool) -> float:
    """Bytes of all weights. Those of an adapter and those of a fit without one are float32."""
    if held.r == 0 and training:
        return 4.0 * shape.parameters
    small = sum(shape.weights.values()) if held.quantization else 0
    rest = (shape.parameters - small) * BYTES[held.dtype]
    base = small * BYTES[held.quantization or held.dtype] + rest
    return base + (4.0 * trained_weights(shape, held) if held.r else 0.0)


def fit_need(shape: ModelShape, held: Weights, use: FitUse) -> Need:
    """Bytes that one device holds at the worst moment of an optimizer step, or of a validation for
    which sharded weights are gathered."""
    weights = weight_bytes(shape, held, training=True)
    everything = weights
    trained = trained_weights(shape, held)
    gradients = 4.0 * trained
    moments = 4.0 * use.moments * trained

    in_float32 = held.r == 0 or (held.dtype == "float32" and not held.quantization)
    copies = _copy_bytes(shape) if use.mixed and in_float32 else 0.0

    if use.sharded:
        # Besides its parts, a rank holds whole weights of the layer it computes, of the next one
        # that it gathers meanwhile, and of what is outside the layers (the embeddings).
        per_layer = sum(shape.weights.values()) / max(shape.layers, 1)
        outside = shape.parameters - sum(shape.weights.values())
        whole = (2 * per_layer + outside) * BYTES[held.dtype if held.r else "float32"]
        weights = weights / use.ranks + whole
        gradients = gradients / use.ranks
        moments = moments / use.ranks
        copies = 0.5 * whole if copies else 0.0
    elif use.sharded_optimizer:
        gradients = gradients / use.ranks
        moments = moments / use.ranks
    elif use.ranks > 1:
        gradients *= 2  # a second time in the buckets that ranks send each other

    step = Need(
        weights=weights,
        copies=copies,
        gradients=gradients,
        optimizer=moments,
        activations=_activation_bytes(shape, held, use),
        head=_head_bytes(shape, use),
    )
    if not (use.sharded and use.validates):
        return step
    validation = replace(step, weights=everything + everything / use.ranks, activations=0.0, head=0)
    return max(step, validation, key=lambda need: need.total)


def generate_need(shape: ModelShape, held: Weights, use: GenerateUse) -> Need:
    """Bytes that one device holds while it decodes.

    The head's share is the float32 logits of one step, their log-probabilities, and what sorting
    them takes.
    """
    in_float32 = held.dtype == "float32" and not held.quantization
    size = 2.0 if use.half or held.dtype != "float32" else 4.0
    return Need(
        weights=weight_bytes(shape, held, training=False),
        copies=_copy_bytes(shape) if use.half and in_float32 else 0.0,
        head=4.0 * 4 * use.rows * shape.vocabulary,
        cache=2.0 * shape.layers * shape.kv_width * use.columns * size,
    )


def _copy_bytes(shape: ModelShape) -> float:
    """Autocast keeps a copy in half precision of every float32 weight inside its block."""
    return 2.0 * shape.parameters


def _activation_bytes(shape: ModelShape, held: Weights, use: FitUse) -> float:
    """What is kept of every token for the backward pass, and the mask of rows that branch.

    With checkpointing it is one state per layer, and one layer in full.
    """
    keys = 0 if use.checkpointing else min(use.composed, use.longest)
    per_token = kept_per_token(shape, held, use.mixed, keys)
    if use.checkpointing:
        per_token = 4.0 * shape.layers * shape.hidden + per_token / max(shape.layers, 1)
    mask = 3.0 * use.micro_batch * use.longest  # boolean, and added to scores in half precision
    return use.micro_batch * per_token + mask


def kept_per_token(shape: ModelShape, held: Weights, mixed: bool, keys: int = 0) -> float:
    """Bytes that the layers keep of one token for the backward pass.

    These are what autograd saves in a model of Llama's kind. Attention keeps queries, keys and
    values; composed attention, which `keys` above 0 stands for, keeps them in float32 for every
    head, with a probability per head and key. The inner layer keeps three states of its width, each
    of two norms its float32 input. What else is kept is for gradients of weights: the inputs of
    matrices that are trained or adapted, and of each norm the normalized state, if its weights are
    trained.
    """
    half = mixed or held.dtype != "float32"
    layers, hidden = shape.layers, shape.hidden
    size = 2.0 if half else 4.0
    if keys:
        attention = 4.0 * (3 * shape.attention_width + shape.heads * keys)
    else:
        # An adapter in half precision keeps the result, too: it is not the matrix's own input then.
        result = shape.attention_width if held.r and half else 0
        attention = size * (shape.attention_width + 2 * shape.kv_width + result)
    inner = size * 3 * shape.intermediate
    norms = (8.0 if held.r else 16.0) * hidden

    names = shape.adapted(held.target_modules) if held.r else list(shape.inputs)
    inputs = sum(shape.inputs[name] for name in names)
    if not half:  # matrices that read the same state share it; any other arithmetic casts it first
        shared = 2 * hidden + shape.attention_width + shape.intermediate
        inputs = min(inputs, layers * shared)
    inputs += held.r * len(names) * layers  # the narrow states of an adapter
    return layers * (attention + inner + norms) + (2.0 if mixed else 4.0) * inputs


def _head_bytes(shape: ModelShape, use: FitUse) -> float:
    """Float32 logits of one part of the scored tokens, their softmax, its gradient, and kept ones.

    Only few logits are kept, so all tokens of a small micro-batch count as scored.
    """
    part = min(use.micro_batch, max(LEAST_PART, -(-use.micro_batch // HEAD_PARTS)))
    kept = min(use.micro_batch * shape.vocabulary, KEPT_LOGITS)
    return 3 * 4.0 * part * shape.vocabulary + 4.0 * kept


# --- remedies ---


@dataclass(frozen=True)
class Remedy:
    """A setting that reduces the need of a fit, as an override of the command line."""

    setting: str
    held: Weights
    use: FitUse


def remedies(
    shape: ModelShape, held: Weights, use: FitUse, memory: float, stage: str = "policy"
) -> list[str]:
    """Settings with which the fit of a stage needs at most `memory` bytes, the mildest first.

    Each is tried together with those before it, up to the first that suffices, which is named with
    the need. Empty if none suffices.
    """
    settings: list[str] = []
    for remedy in _milder(held, use, f"{stage}.val_problems=0"):
        settings.append(remedy.setting)
        need = fit_need(shape, remedy.held, remedy.use).total
        if need <= memory:
            return [*settings[:-1], f"{settings[-1]} ({need / GIB:.1f} GiB)"]
    return []


def _milder(held: Weights, use: FitUse, no_validation: str) -> list[Remedy]:
    """Remedies in the order in which they are tried, each with those before it (except fsdp2).

    `no_validation` is the setting with which sharded weights are never gathered.
    """
    steps: list[Remedy] = []
    if use.sharded and use.validates:
        use = replace(use, validates=False)
        steps.append(Remedy(no_validation, held, use))
    if not use.checkpointing:
        use = replace(use, checkpointing=True)
        steps.append(Remedy("model.gradient_checkpointing=true", held, use))

    for tokens in (8192, 4096, 2048):
        if use.micro_batch > tokens:
            use = replace(use, micro_batch=tokens, longest=min(use.longest, tokens))
            steps.append(Remedy(f"trainer.max_tokens_per_micro_batch={tokens}", held, use))

    if use.ranks > 1 and not use.sharded:
        sharded = replace(use, sharded=True)
        steps.append(Remedy("trainer=fsdp2", held, sharded))
        if use.validates:
            steps.append(Remedy(no_validation, held, replace(sharded, validates=False)))

    if held.r == 0:
        held = replace(held, r=16, dtype="bfloat16")
        steps.append(Remedy("model.lora={r: 16} model.dtype=bfloat16", held, use))
    elif held.dtype == "float32":
        held = replace(held, dtype="bfloat16")
        steps.append(Remedy("model.dtype=bfloat16", held, use))

    if held.quantization is None:
        held = replace(held, quantization="nf4")
        steps.append(Remedy("model.quantization=nf4", held, use))
    return steps
