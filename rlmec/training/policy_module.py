"""PolicyModule: trains a policy, samples from it, and scores completions under it.

In training: rows with their credit. Credit is decided before training and travels in the rows, so
this module knows no task, no teacher, and no reward rule. In prediction: parts to sample from, or
rows to score.
"""

from __future__ import annotations

from typing import Any

import torch

from rlmec.lm.generation import Completion, generate
from rlmec.lm.logprobs import has_dropout, score_rows
from rlmec.method.objectives import ObjectiveSums, TokenBatch
from rlmec.training.module import CompletionModule
from rlmec.training.predict_parts import ScoringPart, Sealed

QUANTILE = 10
MAXIMUM = 50
"""How much larger than its mean the 99 % quantile and the maximum of |log ratio| may be."""


class PolicyModule(CompletionModule):
    """Used for the warm-up and for RLMEC training.

    `ratio_tolerance` bounds the error of the ratio at the first step, where the policy is still the
    one that the old log-probs are from: the mean of |log ratio| over the rewarded tokens. Its 99 %
    quantile may be QUANTILE times, its maximum MAXIMUM times as large. None skips the check.
    `ratio_error` holds the three figures after that step.
    """

    def __init__(self, network: Any, *, ratio_tolerance: float | None = None, **kwargs: Any):
        super().__init__(network, **kwargs)
        self.ratio_tolerance = ratio_tolerance
        self.ratio_error: dict[str, float] = {}
        self._first_gaps: list[torch.Tensor] = []

    def run_objective(self, batch: dict[str, torch.Tensor], tokens: TokenBatch) -> ObjectiveSums:
        """The objective's sums; at the first step the error of the ratio is measured as well."""
        self._measure_first_ratios(batch, tokens)
        return super().run_objective(batch, tokens)

    def _measure_first_ratios(self, batch: dict[str, torch.Tensor], tokens: TokenBatch) -> None:
        """Keeps |log ratio| of the rewarded tokens of a micro-batch of step 0."""
        if self.global_step or self.ratio_tolerance is None:
            return
        rewarded = tokens.token_rewards != 0  # [N]
        # Ranks that share the weights must all make the forward pass below, or none of them.
        if not (rewarded.any() or self.is_sharded):
            return

        # The old log-probs were scored without dropout.
        logprobs = tokens.logprobs.detach()  # [N]
        if self.training and has_dropout(self.net):
            self.net.eval()
            with torch.no_grad():
                logprobs = self.token_batch(batch).logprobs
            self.net.train()
        self._first_gaps.append((logprobs - tokens.old_logprobs)[rewarded].abs().cpu())

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Raises RuntimeError at step 0 if the old log-probs are from another policy than this."""
        gaps = torch.cat(self._first_gaps) if self._first_gaps else torch.empty(0)  # [N]
        self._first_gaps = []
        if self.ratio_tolerance is None or not len(gaps):
            return

        found = (float(gaps.mean()), float(gaps.quantile(0.99)), float(gaps.max()))
        self.ratio_error = dict(zip(("mean", "p99", "max"), found, strict=True))
        allowed = [self.ratio_tolerance * factor for factor in (1, QUANTILE, MAXIMUM)]
        if all(gap <= bound for gap, bound in zip(found, allowed, strict=True)):  # not for NaN
            return
        shown = ", ".join(
            f"{name} {gap:.2e} (at most {bound:.0e})"
            for (name, gap), bound in zip(self.ratio_error.items(), allowed, strict=True)
        )
        raise RuntimeError(
            f"at step 0 the new probabilities are not the old ones; |log ratio| over {len(gaps)} "
            f"tokens: {shown}. The scores were made with other weights, another precision, prompt "
            f"or tokenizer than the policy has now; remake stage=score, or set "
            f"policy.ratio_tolerance"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ratio_error"] = self.ratio_error

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.ratio_error = checkpoint.get("ratio_error", {})

    def step_metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """The figures of every fit, and those of the objective (formulas: docs/metrics.md)."""
        out = super().step_metrics(sums)
        count = sums.get("reward_count", 0.0)
        if count:
            out |= {
                "policy_loss": sums["policy_loss"],
                "ratio/mean": sums["ratio_sum"] / count,
                "ratio/max": sums["ratio_max"],
                "clip_ratio/high_mean": sums["clip_high_count"] / count,
                "clip_ratio/low_mean": sums["clip_low_count"] / count,
                "approx_kl": sums["approx_kl_sum"] / count,
                "rewards/token/mean": sums["reward_sum"] / count,
            }
        pairs = sums.get("preference_count", 0.0)
        if pairs:
            out |= {
                "policy_loss": sums["policy_loss"],
                "dpo/margin": sums["margin_sum"] / pairs,
                "dpo/accuracy": sums["preferred_count"] / pairs,
            }
        return out

    def predict_step(
        self, batch: Sealed, batch_idx: int
    ) -> list[Completion] | list[list[float]] | None:
        """Completions of a GenerationPart, log-probs of a ScoringPart's rows, None for no part."""
        part = batch.part
        if part is None:
            return None
        if isinstance(part, ScoringPart):
            return score_rows(self.net, part.rows, self.pad_id)
        return generate(
            self.network,
            part.prompts,
            part.decoding,
            end_ids=self.end_ids,
            pad_id=self.pad_id,
            seed=part.seed,
        )
