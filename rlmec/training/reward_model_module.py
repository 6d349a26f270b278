"""RewardModelModule: the generative reward model (GRM), trained to rewrite, copy and locate.

Its likelihood of an attempt's tokens under the rewriting prompt is the raw material of token
rewards; its own greedy rewrite of a wrong attempt is a correction, and takes the attempt for its
draft. In training: rows of prompt and
target, loss on the target only.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlmec.lm.draft_decoding import Rewrite
from rlmec.lm.logprobs import score_rows
from rlmec.training.module import CompletionModule
from rlmec.training.predict_parts import Sealed, rewrite_part


@dataclass(frozen=True)
class GrmOutput:
    """Raw log-probs of every row's completion tokens, and what became of every draft."""

    logprobs: list[list[float]]
    rewrites: list[Rewrite]


class RewardModelModule(CompletionModule):
    """Trained with `objectives.weighted_likelihood`; predicts a part's log-probs and rewrites."""

    def predict_step(self, batch: Sealed, batch_idx: int) -> GrmOutput | None:
        """Log-probs of a ScoringPart's rows, log-probs and rewrites of its drafts, None for no
        part. A draft is scored by the passes that rewrite it."""
        part = batch.part
        if part is None:
            return None
        return GrmOutput(
            score_rows(self.net, part.rows, self.pad_id),
            rewrite_part(self.network, part, self.end_ids, self.pad_id),
        )
