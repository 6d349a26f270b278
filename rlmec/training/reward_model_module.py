"""RewardModelModule: trains the generative reward model (GRM), scores and rewrites with it.

In training: rows of a prompt and the text that the GRM must write, with the loss on that text only.
In prediction: attempts. The GRM's log-probs of an attempt's tokens, under the rewriting prompt, are
what token rewards are made of. Its own greedy rewrite of a wrong attempt is a proposed correction.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlmec.lm.draft_decoding import Rewrite, rewrite
from rlmec.lm.logprobs import score_rows
from rlmec.runtime.display import stretch
from rlmec.training.module import CompletionModule
from rlmec.training.predict_parts import ScoringPart, Sealed


@dataclass(frozen=True)
class GrmOutput:
    """Log-probs of the scored tokens of every row, and the rewrite of every draft with its own."""

    logprobs: list[list[float]]
    rewrites: list[Rewrite]


class RewardModelModule(CompletionModule):
    """Trained with `objectives.weighted_likelihood`; scores and rewrites the attempts of a part."""

    def predict_step(self, batch: Sealed, batch_idx: int) -> GrmOutput | None:
        """Log-probs of a ScoringPart's rows, and rewrites of its drafts; None for no part.

        A draft needs no row: the passes that rewrite it give its log-probs, too.
        """
        part = batch.part
        if part is None:
            return None
        scored = len(part.rows) / max(len(part.rows) + len(part.drafts), 1)
        with stretch(0.0, scored):
            logprobs = score_rows(self.net, part.rows, self.pad_id)
        with stretch(scored, 1.0):
            rewrites = self._rewritten(part)
        return GrmOutput(logprobs, rewrites)

    def _rewritten(self, part: ScoringPart) -> list[Rewrite]:
        if not part.drafts:
            return []
        return rewrite(
            self.network,
            [draft.prompt for draft in part.drafts],
            [draft.ids for draft in part.drafts],
            part.max_completion_length,
            end_ids=self.end_ids,
            pad_id=self.pad_id,
            alternatives=part.alternatives,
        )
