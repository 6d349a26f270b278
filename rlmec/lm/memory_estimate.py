"""What a run will need of one device's memory, worked out from shapes and settings alone.

In: the sizes of a model (`ModelShape`) and how a stage uses it. Out: bytes by kind. The parts that
follow from counts (weights, gradients, moments, cache) are exact; activations are an estimate of
what is kept for the way back, by tokens of a micro-batch, width and layers; `RESERVE` stands for
what a process holds besides. Pure: nothing is loaded or asked of a device here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

GIB = 2**30
RESERVE = GIB
"""The CUDA context, the allocator's gaps and what libraries hold for their work."""
BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "nf4": 0.516, "int8": 1.0}
"""Of one weight. nf4: 4 bits, a scale of 8 bits for 64 weights, and one of 32 bits for 256 of
those: 0.5 + 1 / 64 + 4 / (64 * 256)."""
HEAD_PARTS, LEAST_PART = 16, 192
"""The parts in which the head's logits are computed (`language.logprobs`)."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a causal language model. By the last name of its layers' matrices: their weights,
    their inputs, and inputs and outputs together, summed over all layers."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    attention_width: int
    kv_width: int
    vocabulary: int
    weights: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)

    def adapted(self, target_modules: list[str] | str) -> list[str]:
        """The names of the matrices that an adapter would stand on."""
        if target_modules == "all-linear":
            return sorted(self.widths)
        wanted = [target_modules] if isinstance(target_modules, str) else target_modules
        return [name for name in wanted if name in self.widths]


@dataclass(frozen=True)
class Weights:
    """How a model is held: `dtype` of what is frozen, an adapter of rank `r` (0: all weights are
    trained, in float32), `quantization` of the matrices below it."""

    dtype: str = "float32"
    r: int = 0
    target_modules: list[str] | str = "all-linear"
    quantization: str | None = None


@dataclass(frozen=True)
class FitUse:
    """How a fit uses a device: tokens of a micro-batch and of its longest row, half-precision
    arithmetic, numbers that the optimizer keeps for each weight, ranks, what they share."""

    micro_batch: int
    longest: int
    mixed: bool = False
    checkpointing: bool = False
    moments: int = 2
    ranks: int = 1
    sharded: bool = False
    sharded_optimizer: bool = False


@dataclass(frozen=True)
class GenerateUse:
    """Rows that are decoded at once and the columns that their cache has together."""

    rows: int
    columns: int
    half: bool = False


@dataclass(frozen=True)
class Need:
    """Bytes on one device, by kind."""

    weights: float = 0.0
    copies: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    head: float = 0.0
    cache: float = 0.0

    @property
    def total(self) -> float:
        return sum(getattr(self, f.name) for f in fields(self)) + RESERVE


def trained_weights(shape: ModelShape, held: Weights) -> int:
    """The number of weights that learn: all, or the adapter's r (in + out) a matrix."""
    if held.r == 0:
        return shape.parameters
    return held.r * sum(shape.widths[name] for name in shape.adapted(held.target_modules))


def weight_bytes(shape: ModelShape, held: Weights, *, training: bool) -> float:
    """All weights, the adapter's in float32. Without an adapter they are trained in float32."""
    if held.r == 0 and training:
        return 4.0 * shape.parameters
    small = sum(shape.weights.values()) if held.quantization else 0
    rest = (shape.parameters - small) * BYTES[held.dtype]
    below = small * BYTES[held.quantization or held.dtype] + rest
    return below + (4.0 * trained_weights(shape, held) if held.r else 0.0)


def fit_need(shape: ModelShape, held: Weights, use: FitUse) -> Need:
    """What one device holds at the worst moment of an optimizer step.

    Under autocast every float32 weight has a copy in half precision while the step lasts. Several
    ranks have the gradients once more, in the buckets they send; where all is sharded each rank has
    a part of weights, gradients and moments, and one layer and the embeddings whole.
    """
    weights, learns = weight_bytes(shape, held, training=True), trained_weights(shape, held)
    in_float32 = held.r == 0 or (held.dtype == "float32" and not held.quantization)
    gradients, moments = 4.0 * learns, 4.0 * use.moments * learns
    copies = 2.0 * shape.parameters if use.mixed and in_float32 else 0.0
    if use.sharded:
        a_layer = sum(shape.weights.values()) / max(shape.layers, 1)
        outside = shape.parameters - sum(shape.weights.values())
        whole = (2 * a_layer + outside) * BYTES[held.dtype if held.r else "float32"]
        weights, gradients, moments = (x / use.ranks for x in (weights, gradients, moments))
        weights, copies = weights + whole, 0.5 * whole if copies else 0.0
    elif use.sharded_optimizer:
        gradients, moments = gradients / use.ranks, moments / use.ranks
    elif use.ranks > 1:
        gradients *= 2
    return Need(
        weights, copies, gradients, moments, _activations(shape, held, use), _head(shape, use)
    )


def generate_need(shape: ModelShape, held: Weights, use: GenerateUse) -> Need:
    """What one device holds while it decodes: weights, cache, and logits of one step (in float32,
    with their log-probabilities and what sorting them takes)."""
    size = 2.0 if use.half or held.dtype != "float32" else 4.0
    return Need(
        weights=weight_bytes(shape, held, training=False),
        head=4.0 * 4 * use.rows * shape.vocabulary,
        cache=2.0 * shape.layers * shape.kv_width * use.columns * size,
    )


def _activations(shape: ModelShape, held: Weights, use: FitUse) -> float:
    """Kept of every token for the way back, and the mask of rows that branch.

    Of a layer: six states of the model's width, queries, keys and values before and after their
    rotation, four states of the inner width; two norms keep two float32 states each; an adapter
    keeps its matrices' inputs. With checkpointing one state a layer, and one layer in full.
    """
    size = 2.0 if use.mixed or held.dtype != "float32" else 4.0
    a_layer = size * (
        6 * shape.hidden + 2 * (shape.attention_width + 2 * shape.kv_width) + 4 * shape.intermediate
    )
    a_layer += 16.0 * shape.hidden
    if held.r:
        inputs = sum(shape.inputs[name] for name in shape.adapted(held.target_modules))
        a_layer += size * inputs / max(shape.layers, 1)
    a_token = shape.layers * a_layer
    if use.checkpointing:
        a_token = 4.0 * shape.layers * shape.hidden + a_layer
    mask = 3.0 * use.micro_batch * use.longest  # boolean, and added to scores in half precision
    return use.micro_batch * a_token + mask


def _head(shape: ModelShape, use: FitUse) -> float:
    """Logits of one part of the scored tokens: in float32, their softmax and its gradient."""
    part = min(use.micro_batch, max(LEAST_PART, -(-use.micro_batch // HEAD_PARTS)))
    return 3 * 4.0 * part * shape.vocabulary


@dataclass(frozen=True)
class Remedy:
    """A setting that would change the need of a fit, in the words of the command line."""

    setting: str
    held: Weights
    use: FitUse


def remedies(shape: ModelShape, held: Weights, use: FitUse, memory: float) -> list[str]:
    """Settings that make a fit go into `memory` bytes, the mildest first, each with what it needs;
    each is tried on top of those before it, up to the first that suffices. Empty where none does.
    """
    tried, out = Remedy("", held, use), []
    for step in _milder(held, use):
        tried = Remedy(step.setting, step.held, step.use)
        need = fit_need(shape, tried.held, tried.use).total
        out.append(step.setting)
        if need <= memory:
            return [*out[:-1], f"{out[-1]} ({need / GIB:.1f} GiB)"]
    return []


def _milder(held: Weights, use: FitUse) -> list[Remedy]:
    out: list[Remedy] = []
    if not use.checkpointing:
        use = replace(use, checkpointing=True)
        out.append(Remedy("model.gradient_checkpointing=true", held, use))
    for tokens in (8192, 4096, 2048):
        if use.micro_batch > tokens:
            use = replace(use, micro_batch=tokens, longest=min(use.longest, tokens))
            out.append(Remedy(f"trainer.max_tokens_per_micro_batch={tokens}", held, use))
    if use.ranks > 1 and not use.sharded:
        out.append(Remedy("trainer=fsdp2", held, replace(use, sharded=True)))
    if held.r == 0:
        held = replace(held, r=16, dtype="bfloat16")
        setting = "model.lora={r: 16} model.dtype=bfloat16"
        out.append(Remedy(setting, held, use))
    elif held.dtype == "float32":
        held = replace(held, dtype="bfloat16")
        out.append(Remedy("model.dtype=bfloat16", held, use))
    if held.quantization is None:
        held = replace(held, quantization="nf4")
        out.append(Remedy("model.quantization=nf4", held, use))
    return out
