"""PolicyModule: warm-up and RLMEC training of a policy, its samples and its log-probabilities.

Credit is decided before training and travels in the rows; this module knows no task, no teacher and
no reward rule. In training: the objective's terms over completion tokens. In prediction: parts to
sample, or rows to score.
"""

from __future__ import annotations

from typing import Any

import torch

from rlmec.lm.logprobs import has_dropout, score_rows
from rlmec.method.objectives import ObjectiveSums, TokenBatch
from rlmec.training.module import CompletionModule
from rlmec.training.predict_parts import ScoringPart, Sealed, generate_part


class PolicyModule(CompletionModule):
    """`ratio_tolerance` bounds |ratio - 1| at the first step, where both policies are the same."""

    def __init__(self, network: Any, *, ratio_tolerance: float | None = None, **kwargs: Any):
        super().__init__(network, **kwargs)
        self.ratio_tolerance = ratio_tolerance

    def run_objective(self, batch: dict[str, torch.Tensor], tokens: TokenBatch) -> ObjectiveSums:
        """The objective's sums, after the check of the first step."""
        self._check_ratio(batch, tokens)
        return super().run_objective(batch, tokens)

    def _check_ratio(self, batch: dict[str, torch.Tensor], tokens: TokenBatch) -> None:
        """Raises RuntimeError at step 0 where the scores came from another policy than this."""
        rewarded = tokens.token_rewards != 0
        if self.global_step or self.ratio_tolerance is None:
            return
        if not (rewarded.any() or self.is_cut):  # together, or not at all
            return
        logprobs = tokens.logprobs.detach()
        if self.training and has_dropout(self.net):
            self.net.eval()
            with torch.no_grad():
                logprobs = self.tokens(batch).logprobs
            self.net.train()
        if not rewarded.any():
            return
        ratio = (logprobs - tokens.old_logprobs)[rewarded].exp()
        worst = float((ratio - 1).abs().max())
        if not worst <= self.ratio_tolerance:
            raise RuntimeError(
                f"at step 0 the ratio of new to old probabilities is off by {worst:.2e} (at most "
                f"{self.ratio_tolerance:.0e} expected): the scores were made with other weights, "
                f"another precision, prompt or tokenizer than the policy has now; remake "
                f"stage=score, or set policy.ratio_tolerance"
            )

    def step_metrics(self, sums: dict[str, float]) -> dict[str, float]:
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
        if pairs := sums.get("preference_count", 0.0):
            out |= {
                "policy_loss": sums["policy_loss"],
                "dpo/margin": sums["margin_sum"] / pairs,
                "dpo/accuracy": sums["preferred_count"] / pairs,
            }
        return out

    def predict_step(self, batch: Sealed, batch_idx: int) -> Any:
        """Completions of a GenerationPart, log-probs of a ScoringPart's rows, None for no part."""
        part = batch.part
        if part is None:
            return None
        if isinstance(part, ScoringPart):
            return score_rows(self.net, part.rows, self.pad_id)
        return generate_part(self.network, part, self.end_ids, self.pad_id)
