"""What both LightningModules share: a loss normalised by the counts of its whole optimizer step.

In: batches of `batching.collate`. Out: the loss A * W * (S_RL / N_R + coef * S_IR / N_w), where an
objective may name another count of the step than N_R, and
Lightning divides by A (micro-batches of a step) and the strategy by W (ranks), so that the gradient
is that of the whole step however it was cut. Metrics are summed over a step and logged every
`log_every_n_steps`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import lightning as L
import torch

from rlmec.lm.logprobs import TokenScorer
from rlmec.lm.lora import is_adapted
from rlmec.method.objectives import ObjectiveSums, TokenBatch
from rlmec.training.fsdp import is_sharded, shard, whole_state

Objective = Callable[[TokenBatch], ObjectiveSums]


class CompletionModule(L.LightningModule):
    """A causal network trained on the completion tokens of its rows.

    `objective` maps a TokenBatch to sums; `optimizer` and `scheduler` are constructors that still
    want the parameters, the optimizer and the counts of steps; `steps` is the number of optimizer
    steps of the fit. `schedule` (part, parts) says which part of a schedule over `parts` such fits
    is this one's.
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
        self.net.train()
        self.pad_id, self.end_ids = pad_id, tuple(end_ids)
        self.objective = objective
        self.optimizer, self.scheduler = optimizer, scheduler
        self.steps, self.warmup_share, self.schedule = steps, warmup_share, schedule
        self._sums: dict[str, torch.Tensor] = {}
        self.whole_weights: dict[str, torch.Tensor] | None = None
        self.strict_loading = not any(True for _ in self._frozen())

    @property
    def network(self) -> Any:
        return self.net.network

    @property
    def is_cut(self) -> bool:
        """Whether each rank holds a part of the weights alone, so that all must compute at once."""
        return is_sharded(self.net)

    def configure_model(self) -> None:
        """Cuts the network over the ranks where the strategy has a mesh for it."""
        mesh = getattr(self, "_device_mesh", None)
        if mesh is not None and not is_sharded(self.net):
            network = self.network.get_base_model() if is_adapted(self.network) else self.network
            shard(self.net, network, mesh["data_parallel"])

    def gather(self) -> None:
        """Keeps whole weights, by the network's names, as `whole_weights` where they are sharded:
        on rank 0, but all ranks call it."""
        if is_sharded(self.net):
            prefix = "net.network."
            state = whole_state(self)
            self.whole_weights = {name.removeprefix(prefix): w for name, w in state.items()}

    # --- what a checkpoint holds: weights that are trained ---

    def _frozen(self) -> Iterator[str]:
        for name, parameter in self.named_parameters(remove_duplicate=False):
            if not parameter.requires_grad:
                yield name

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Of a network with frozen weights the trained ones alone: those below an adapter have
        their own directory."""
        state, frozen = super().state_dict(*args, **kwargs), set(self._frozen())
        prefix = kwargs.get("prefix", "")
        for name in [n for n in state if _is_of(n.removeprefix(prefix), frozen)]:
            del state[name]
        return state

    def load_trained(self, state: dict[str, torch.Tensor]) -> None:
        """Puts back what `state_dict` gave; ValueError where names are missing or unknown."""
        self.check_names(state)
        self.load_state_dict(state, strict=self.strict_loading)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks the names of a checkpoint's weights (a sharding strategy has done so before)."""
        if "state_dict" in checkpoint:
            self.check_names(checkpoint["state_dict"])

    def check_names(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError where `state` has not the names of `state_dict`."""
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

    def configure_optimizers(self) -> Any:
        if self.optimizer is None or self.scheduler is None:
            raise ValueError("this module was made for prediction: it has no optimizer")
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        part, parts = self.schedule
        counts = {
            "num_warmup_steps": round(parts * self.steps * self.warmup_share),
            "num_training_steps": parts * self.steps,
        }
        wanted = inspect.signature(self.scheduler).parameters
        scheduler = self.scheduler(optimizer, **{k: v for k, v in counts.items() if k in wanted})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            for _ in range((part - 1) * self.steps):
                scheduler.step()
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def tokens(self, batch: dict[str, torch.Tensor]) -> TokenBatch:
        """The scored tokens of a batch, flat, with the network's log-probs of them.

        Raises TypeError where a precision plugin has rounded the batch's credit.
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

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        tokens = self.tokens(batch)
        sums = self.run_objective(batch, tokens)
        policy, imitation, loss = normalized(sums, batch)
        self._collect(
            sums.metrics
            | {
                "policy_loss": policy.detach(),
                "imitation_loss": imitation.detach(),
                "loss": loss.detach(),
                "tokens": batch["attention_mask"].sum(),
                "processed": torch.tensor(batch["input_ids"].numel(), device=loss.device),
            }
        )
        return loss * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def run_objective(self, batch: dict[str, torch.Tensor], tokens: TokenBatch) -> ObjectiveSums:
        """The objective's sums over the completion tokens of a batch."""
        if self.objective is None:
            raise ValueError("this module was made for prediction: it has no objective")
        return self.objective(tokens)

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """[2]: sum of -log p over completion tokens, and their number."""
        logprobs = self.tokens(batch).logprobs
        return torch.stack([-logprobs.sum(), logprobs.new_tensor(float(len(logprobs)))])

    def entropy_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """[2]: sum of the entropies (nats) at the scored tokens, and their number."""
        entropies = self.net.entropies(batch)  # [N]
        return torch.stack([entropies.sum(), entropies.new_tensor(float(len(entropies)))])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._learning_rate = self.trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches:
            return
        trainer: Any = self.trainer
        if self.global_step % trainer.log_every_n_steps == 0 or self.global_step == self.steps:
            figures = self.step_metrics(self._reduced())
            publish(self.trainer, {f"train/{name}": value for name, value in figures.items()})
        self._sums = {}

    def step_metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Figures of one optimizer step from its sums over micro-batches and ranks."""
        return {
            "loss": sums["loss"],
            "imitation_loss": sums["imitation_loss"],
            "tokens": sums["tokens"],
            "padding_share": 1.0 - sums["tokens"] / sums["processed"],
            "learning_rate": self._learning_rate,
        }

    def _collect(self, metrics: dict[str, torch.Tensor]) -> None:
        for name, value in metrics.items():
            old = self._sums.get(name)
            value = value.detach().double()
            if old is not None:
                value = torch.maximum(old, value) if name.endswith("_max") else old + value
            self._sums[name] = value

    def _reduced(self) -> dict[str, float]:
        names = sorted(self._sums)
        if self.trainer.world_size == 1:
            return {name: float(self._sums[name]) for name in names}
        reduce = self.trainer.strategy.reduce
        how = {True: "max", False: "sum"}
        return {
            name: float(reduce(self._sums[name].clone(), reduce_op=how[name.endswith("_max")]))
            for name in names
        }


def _is_of(name: str, frozen: set[str]) -> bool:
    """Whether a name of a state dict is a frozen weight, or what quantizing has put beside one."""
    parts = name.split(".")
    return any(".".join(parts[:i]) in frozen for i in range(len(parts), 0, -1))


def normalized(
    sums: ObjectiveSums, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A micro-batch's share of its step's policy term, imitation term and loss, all 0-d."""
    policy = sums.policy / batch[f"{sums.divide_by}_normalizer"]
    imitation = sums.imitation / batch["imitation_normalizer"]
    return policy, imitation, policy + sums.imitation_coef * imitation


def publish(trainer: L.Trainer, figures: dict[str, float]) -> None:
    """Gives the figures of the step just done to every logger and to `trainer.callback_metrics`.

    (Lightning's own `log` would count that step one lower, and leave out a last step between two
    intervals.)
    """
    for logger in trainer.loggers:
        logger.log_metrics(figures, step=trainer.global_step)
        logger.save()
    trainer.callback_metrics.update({k: torch.tensor(v) for k, v in figures.items()})
