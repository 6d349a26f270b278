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


class PolicyModule(CompletionModule):
    """Used for the warm-up and for RLMEC training.

    `ratio_tolerance` bounds |ratio - 1| at the first step, where the policy is still the one that
    the old log-probs are from. None skips the check.
    """

    def __init__(self, network: Any, *, ratio_tolerance: float | None = None, **kwargs: Any):
        super().__init__(network, **kwargs)
        self.ratio_tolerance = ratio_tolerance

    def run_objective(self, batch: dict[str, torch.Tensor], tokens: TokenBatch) -> ObjectiveSums:
        """The objective's sums, after the check of the first step."""
        self._check_first_ratios(batch, tokens)
        return super().run_objective(batch, tokens)

    def _check_first_ratios(self, batch: dict[str, torch.Tensor], tokens: TokenBatch) -> None:
        """Raises RuntimeError at step 0 if the old log-probs are from another policy than this."""
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
        if not rewarded.any():
            return

        ratio = (logprobs - tokens.old_logprobs)[rewarded].exp()
        worst = float((ratio - 1).abs().max())
        if not worst <= self.ratio_tolerance:  # also true for NaN
            raise RuntimeError(
                f"at step 0 the ratio of new to old probabilities is off by {worst:.2e} (at most "
                f"{self.ratio_tolerance:.0e} expected): the scores were made with other weights, "
                f"another precision, prompt or tokenizer than the policy has now; remake "
                f"stage=score, or set policy.ratio_tolerance"
            )

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
