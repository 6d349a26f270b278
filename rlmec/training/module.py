"""What both LightningModules share: a loss that is normalized over a whole optimizer step.

In: micro-batches of `data.collate`, each with the token counts of its whole optimizer step. Out:

    loss = A * W * (S_RL / N_R + imitation_coef * S_IR / N_w)

S_RL and S_IR are the objective's sums over this micro-batch. N_R and N_w count the rewarded and the
weighted tokens of the step, over all its micro-batches and ranks; an objective may name another
count than N_R. Lightning divides the loss by A (micro-batches per step) and the strategy divides
the gradient by W (ranks), so the result does not depend on how a step was cut. `docs/method.md` has
the equations.

Metrics are summed over a step and logged every `log_every_n_steps` steps.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import lightning as L
import torch

from rlmec.lm.logprobs import TokenScorer
from rlmec.lm.lora import is_adapted
from rlmec.method.objectives import ObjectiveSums, TokenBatch
from rlmec.training.fsdp import is_sharded, shard, whole_state, with_whole_weights

Objective = Callable[[TokenBatch], ObjectiveSums]

FLOAT16 = "16-mixed"


class CompletionModule(L.LightningModule):
    """A causal network that is trained on the completion tokens of its rows.

    `objective` maps a TokenBatch to sums. `optimizer` is a constructor that takes the parameters;
    its weight decay is for matrices alone (`decay_groups`). `scheduler` is a constructor that takes
    the optimizer and the counts of steps. `steps` is the number of optimizer steps of the fit,
    `warmup_share` the share of them with a rising learning rate. `schedule` is (part, parts) where
    `parts` fits share one learning-rate schedule and this fit is number `part` of them, from 1 on.
    A module that only predicts needs none of these.
    """

    def __init__(
        self,
        network: Any,
        *,
        pad_id: int,
        end_ids: Sequence[int],
        objective: Objective | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        scheduler: Callable[..., Any] | None = None,
        steps: int = 0,
        warmup_share: float = 0.03,
        schedule: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        self.net = TokenScorer(network)
        self.net.train()  # `from_pretrained` gives networks in eval mode, and Lightning keeps that
        self.pad_id = pad_id
        self.end_ids = tuple(end_ids)

        self.objective = objective
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.steps = steps
        self.warmup_share = warmup_share
        self.schedule = schedule

        self._sums: dict[str, torch.Tensor] = {}
        self.whole_weights: dict[str, torch.Tensor] | None = None
        # A checkpoint has no frozen weights: `check_names` is then the check instead.
        self.strict_loading = all(p.requires_grad for p in self.parameters())

    @property
    def network(self) -> Any:
        return self.net.network

    # --- weights that are sharded over the ranks ---

    @property
    def is_sharded(self) -> bool:
        """Whether each rank holds only a part of the weights, so that all must compute together."""
        return is_sharded(self.net)

    def configure_model(self) -> None:
        """Shards the network if the strategy has a device mesh for it. Lightning calls this."""
        mesh = getattr(self, "_device_mesh", None)
        if mesh is not None and not self.is_sharded:
            network = self.network.get_base_model() if is_adapted(self.network) else self.network
            shard(self.net, network, mesh["data_parallel"])

    def with_whole_weights(self, work: Callable[[], None]) -> None:
        """Runs `work`, in which this rank may compute by itself. All ranks must call it together if
        the weights are sharded, and hold all of them meanwhile."""
        if self.is_sharded:
            with_whole_weights(self.net, work)
        else:
            work()

    def gather(self) -> None:
        """Keeps whole weights on rank 0 as `whole_weights`, by the network's names, if the weights
        are sharded. All ranks must call it."""
        if self.is_sharded:
            self.whole_weights = _by_network(whole_state(self))

    # --- weights in a checkpoint: only those that are trained ---

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The trained weights alone; frozen weights below an adapter have a directory of their own.

        What quantization stores next to a frozen weight is left out, too. A network without frozen
        weights gives all of them.
        """
        state = super().state_dict(*args, **kwargs)
        parameters = dict(self.named_parameters(remove_duplicate=False))
        kept = {name for name, parameter in parameters.items() if parameter.requires_grad}
        if len(kept) == len(parameters):
            return state

        kept.update(name for name, _ in self.named_buffers(remove_duplicate=False))
        prefix = kwargs.get("prefix", "")
        for name in [n for n in state if n.removeprefix(prefix) not in kept]:
            del state[name]
        return state

    def load_trained(self, state: dict[str, torch.Tensor]) -> None:
        """Loads what `state_dict` gave. Raises ValueError if names are missing or unknown.

        After `gather` the weights replace those that were gathered; the parts stay as they are.
        """
        self.check_names(state)
        if self.whole_weights is None:
            self.load_state_dict(state, strict=self.strict_loading)
        elif self.whole_weights:  # on rank 0
            self.whole_weights = _by_network(state)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks the names of a checkpoint's weights. A sharding strategy reads the weights itself
        and passes a checkpoint without them; it has checked the names before."""
        if "state_dict" in checkpoint:
            self.check_names(checkpoint["state_dict"])

    def check_names(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError if `state` does not have exactly the names of `state_dict`."""
        own = set(self.state_dict())
        if missing := sorted(own - set(state)):
            raise ValueError(
                f"the checkpoint has no {missing[0]} ({len(missing)} of {len(own)} trained weights "
                f"are missing): it is of another network or adapter"
            )
        if unknown := sorted(set(state) - own):
            raise ValueError(
                f"the checkpoint has {unknown[0]}, which is not trained here ({len(unknown)} "
                f"weights): it is of another network or adapter"
            )

    # --- training ---

    def configure_optimizers(self) -> Any:
        if self.optimizer is None or self.scheduler is None:
            raise ValueError("this module was made for prediction: it has no optimizer")
        precision = self._trainer.precision if self._trainer else ""
        # Not every fused form takes sharded weights; with float16 none lets gradients be clipped.
        is_plain = precision != FLOAT16 and not self.is_sharded
        make = _fused(self.optimizer) if is_plain else self.optimizer
        optimizer: Any = make([p for p in self.parameters() if p.requires_grad])
        if optimizer.defaults.get("weight_decay"):
            optimizer = make(decay_groups(self))

        # Lightning clips no gradients for a fused optimizer under mixed precision, because with
        # float16 the optimizer removes the loss scale itself. bfloat16 has no loss scale.
        if precision != FLOAT16:
            optimizer._step_supports_amp_scaling = False

        # The counts are computed here, because reading `trainer.estimated_stepping_batches` at this
        # point makes Lightning drop the position of the data loader on a resume. Schedulers differ
        # in which counts they take.
        part, parts = self.schedule
        counts = {
            "num_warmup_steps": round(parts * self.steps * self.warmup_share),
            "num_training_steps": parts * self.steps,
        }
        accepted = inspect.signature(self.scheduler).parameters
        scheduler = self.scheduler(optimizer, **{k: v for k, v in counts.items() if k in accepted})

        # A later part of a shared schedule starts where the parts before it ended. The scheduler
        # warns that no optimizer step came first, which is what we want here.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            for _ in range((part - 1) * self.steps):
                scheduler.step()

        return {
            "optimizer": optimizer,
            # A fit is one Lightning epoch, so a schedule by epochs would take a single step.
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def token_batch(self, batch: dict[str, torch.Tensor]) -> TokenBatch:
        """The scored tokens of a micro-batch, flat, with the network's log-probs of them.

        Raises TypeError if a precision plugin has rounded the credit of the batch.
        """
        if batch["token_rewards"].dtype != torch.float32:
            raise TypeError(
                f"rewards and old log-probs came as {batch['token_rewards'].dtype}, which rounds "
                "the ratio: use precision bf16-mixed or 32-true"
            )
        logprobs = self.net(batch)  # [N]
        return TokenBatch(
            logprobs,
            batch["old_logprobs"],
            batch["token_rewards"],
            batch["weights"],
            torch.ones_like(logprobs, dtype=torch.bool),
            batch["row_ids"],
        )

    def run_objective(self, batch: dict[str, torch.Tensor], tokens: TokenBatch) -> ObjectiveSums:
        """The objective's sums over the scored tokens of a micro-batch."""
        if self.objective is None:
            raise ValueError("this module was made for prediction: it has no objective")
        return self.objective(tokens)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        tokens = self.token_batch(batch)
        sums = self.run_objective(batch, tokens)
        policy_loss, imitation_loss, loss = normalized(sums, batch)

        step_share = {
            "policy_loss": policy_loss.detach(),
            "imitation_loss": imitation_loss.detach(),
            "loss": loss.detach(),
            "tokens": batch["attention_mask"].sum(),
            "processed": torch.tensor(batch["input_ids"].numel(), device=loss.device),
        }
        self._add_to_step(sums.metrics | step_share)

        # Lightning divides by the first factor, the strategy's average over ranks by the second.
        return loss * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Sum of -log p over the scored tokens, and their number: [2]."""
        logprobs = self.token_batch(batch).logprobs  # [N]
        return torch.stack([-logprobs.sum(), logprobs.new_tensor(float(len(logprobs)))])

    def entropy_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Sum of the entropies (nats) at the scored tokens, and their number: [2]."""
        entropies = self.net.entropies(batch)  # [N]
        return torch.stack([entropies.sum(), entropies.new_tensor(float(len(entropies)))])

    # --- metrics of an optimizer step ---

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Read before the step: afterwards the scheduler has already set the rate of the next one.
        self._learning_rate = self.trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches:
            return
        trainer: Any = self.trainer
        if self.global_step % trainer.log_every_n_steps == 0 or self.global_step == self.steps:
            figures = self.step_metrics(self._sums_over_ranks())
            publish(self.trainer, {f"train/{name}": value for name, value in figures.items()})
        self._sums = {}

    def step_metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Figures of one optimizer step, from its sums over micro-batches and ranks."""
        return {
            "loss": sums["loss"],
            "imitation_loss": sums["imitation_loss"],
            "tokens": sums["tokens"],
            "padding_share": 1.0 - sums["tokens"] / sums["processed"],
            "learning_rate": self._learning_rate,
        }

    def _add_to_step(self, metrics: dict[str, torch.Tensor]) -> None:
        """Adds a micro-batch to the step's sums. Metrics named `..._max` are maxima instead."""
        for name, value in metrics.items():
            total = self._sums.get(name)
            value = value.detach().double()
            if total is not None:
                value = torch.maximum(total, value) if name.endswith("_max") else total + value
            self._sums[name] = value

    def _sums_over_ranks(self) -> dict[str, float]:
        names = sorted(self._sums)  # every rank must reduce in the same order
        if self.trainer.world_size == 1:
            return {name: float(self._sums[name]) for name in names}

        reduced = {}
        for name in names:
            how = "max" if name.endswith("_max") else "sum"
            value = self.trainer.strategy.reduce(self._sums[name].clone(), reduce_op=how)
            reduced[name] = float(value)
        return reduced


def _fused(optimizer: Callable[..., Any]) -> Callable[..., Any]:
    """The constructor of the optimizer in its fused form, if it has one: the same update in one
    pass over the weights (AdamW on a CPU: three to four times as fast). A choice of `fused` in the
    settings stands."""
    chosen = getattr(optimizer, "keywords", {})
    has_form = "fused" in inspect.signature(optimizer).parameters
    return partial(optimizer, fused=True) if has_form and "fused" not in chosen else optimizer


def decay_groups(module: torch.nn.Module) -> list[dict[str, Any]]:
    """The trained weights of a module as parameter groups for an optimizer with weight decay.

    The first group has the matrices, which decay. The second one has everything else: norms, biases
    and embeddings, with a head that shares its matrix with an embedding. An empty group is left
    out.
    """
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, torch.nn.Embedding)}
    decayed = []
    others = []
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim >= 2 and id(parameter) not in embeddings
        (decayed if is_matrix else others).append(parameter)

    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _by_network(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A module's state dict by the network's names."""
    return {name.removeprefix("net.network."): weight for name, weight in state.items()}


def normalized(
    sums: ObjectiveSums, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Policy loss, imitation loss and loss of a micro-batch, each its share of the step: 0-d."""
    policy_loss = sums.policy / batch[f"{sums.divide_by}_normalizer"]
    imitation_loss = sums.imitation / batch["imitation_normalizer"]
    return policy_loss, imitation_loss, policy_loss + sums.imitation_coef * imitation_loss


def publish(trainer: L.Trainer, figures: dict[str, float]) -> None:
    """Gives figures of the step just done to every logger and to `trainer.callback_metrics`.

    Lightning's own `log` would name the step one lower, and would leave out a last step that is
    not a multiple of `log_every_n_steps`.
    """
    for logger in trainer.loggers:
        logger.log_metrics(figures, step=trainer.global_step)
        logger.save()
    trainer.callback_metrics.update({k: torch.tensor(v) for k, v in figures.items()})
