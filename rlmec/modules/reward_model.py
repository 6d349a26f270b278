"""RewardModelModule: the generative reward model (GRM), trained to rewrite, copy and locate.

Its likelihood of an attempt's tokens under the rewriting prompt is the raw material of token
rewards; its own greedy rewrite of a wrong attempt is a correction. In training: rows of prompt and
target, loss on the target only.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlmec.language.generation import Completion
from rlmec.language.scoring import score_rows
from rlmec.modules.completion import CompletionModule
from rlmec.parts import Sealed, generate_part


@dataclass(frozen=True)
class GrmOutput:
    """Raw log-probs of every row's completion tokens, and the rewrites asked for."""

    logprobs: list[list[float]]
    rewrites: list[Completion]


class RewardModelModule(CompletionModule):
    """Trained with `objectives.weighted_likelihood`; predicts a part's log-probs and rewrites."""

    def predict_step(self, batch: Sealed, batch_idx: int) -> GrmOutput | None:
        """Log-probs and rewrites of a ScoringPart, None for no part."""
        part = batch.part
        if part is None:
            return None
        return GrmOutput(
            score_rows(self.net, part.rows, self.pad_id),
            generate_part(self.network, part, self.end_ids, self.pad_id) if part.prompts else [],
        )
