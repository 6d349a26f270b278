"""How good the credit of a round was, for the stage `report`.

In: the artifacts of a round. Out: every scored attempt with its rewards and its correction, and how
far the rewards agree with what a trusted correction removes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from rlmec.data.pairs import PairTable
from rlmec.lm.token_texts import TokenTexts, lines_of
from rlmec.method.alignment import edit_script
from rlmec.method.credit import CreditItem, credit_quality
from rlmec.pipeline.chain import Run, Settings
from rlmec.pipeline.pair_records import joined_pairs
from rlmec.pipeline.sources import is_taught
from rlmec.prompts import Codec
from rlmec.records import Alternatives, Correction, Pair, Problem, by_id
from rlmec.report.token_page import Case
from rlmec.store.artifacts import Artifact
from rlmec.store.tables import read_table


@dataclass(frozen=True, eq=False)
class Scored:
    """Every attempt, corrected or not; where they are scored, with their credit under the policy's
    reward rule."""

    run: Run
    table: PairTable
    codec: Codec
    corrections: list[Correction]
    alternatives: Mapping[str, Alternatives] = field(default_factory=dict)  # by attempt

    @property
    def is_scored(self) -> bool:
        """Whether the attempts have scores: a chain whose policy reads none makes none."""
        return bool(self.table.all_scores)

    @cached_property
    def texts(self) -> TokenTexts:
        return TokenTexts(self.codec.decode, self.codec.encode("a")[-1])

    @cached_property
    def cases(self) -> list[Case]:
        """Every attempt with its correction: the first accepted one, else the first."""
        made: dict[str, Correction] = {}
        for correction in sorted(self.corrections, key=lambda c: not c.accepted):
            made.setdefault(correction.attempt_id, correction)

        return [
            Case(
                pair,
                self.table.problems[pair.attempt.problem_id],
                self.table.scores[pair.attempt.id].grm_logprobs if self.is_scored else None,
                made.get(pair.attempt.id),
                is_taught(self.run.settings.teach, pair.attempt.problem_id),
                self.alternatives.get(pair.attempt.id),
            )
            for pair in self.table.pairs
        ]

    @cached_property
    def unseen(self) -> list[Case]:
        """Wrong attempts at problems outside the GRM's training."""
        return [c for c in self.cases if not c.pair.attempt.is_right and not c.taught]

    @cached_property
    def items(self) -> list[CreditItem]:
        """The unseen attempts that have a trusted correction: the oracle's or the accepted one;
        none if the attempts are not scored."""
        items = []
        for case in self.unseen:
            if case.grm_logprobs is None:
                continue
            pair = case.pair
            target = self._truth(pair, case.problem)
            if target is not None:
                script = edit_script(pair.attempt.completion_ids, target)
                items.append(
                    CreditItem.from_script(
                        pair.attempt.id,
                        script,
                        pair.token_rewards,
                        pair.old_logprobs,
                        np.asarray(case.grm_logprobs),
                    )
                )
        return items

    @property
    def truth(self) -> str:
        """Whose corrections the credit is compared with."""
        return "oracle" if self._oracle else "accepted_correction"

    def metrics(self) -> Settings:
        """Credit quality, and how often the most punished token is in the first wrong line."""
        if not self.items:
            return {}
        found = credit_quality(self.items).metrics()
        named = {f"grm/{name}": value for name, value in found.items()}
        return named | {"grm/credit_truth": self.truth} | self._first_errors()

    def _first_errors(self) -> Settings:
        """The share of unseen wrong attempts whose most punished token begins in the first line
        that the task finds wrong. Of equal tokens the first counts; an attempt without a penalty
        counts as a miss."""
        first_wrong_line = getattr(self.run.task, "first_wrong_line", None)
        if first_wrong_line is None:
            return {}

        hits = 0
        total = 0
        for case in self.unseen:
            attempt = case.pair.attempt
            line = first_wrong_line(case.problem, attempt.text)
            if line is None:
                continue
            rewards = case.pair.token_rewards
            worst = int(rewards.argmin())
            lines = lines_of(self.texts(attempt.completion_ids))
            hits += bool(rewards[worst] < 0 and lines[worst] == line)
            total += 1
        return {"grm/most_punished_in_first_error": hits / total} if total else {}

    @property
    def _oracle(self) -> Any:
        return getattr(self.run.task, "oracle", None)

    def _truth(self, pair: Pair, problem: Problem) -> list[int] | None:
        """The token ids of the trusted correction of an attempt; None without one."""
        if self._oracle is None:
            return pair.target_ids or None
        text = self._oracle(problem, pair.attempt.text)
        return None if text is None else self.codec.completion(text, pair.attempt.completion_ids)


def scored_attempts(run: Run, codec: Codec, parents: Mapping[str, Artifact]) -> Scored:
    """The attempts of a round, from its artifact `sample` and, if they were made, from its
    corrections and scores.

    Attempts without a correction are kept, and so are all right ones, because every token's credit
    is looked at here. `codec` is that of the policy's start.
    """
    node = dataclasses.replace(
        run.settings.policy, keep_uncorrected=True, max_right_per_problem=None
    )
    corrections: list[Correction] = []
    for stage in ("score",) if node.corrections == "grm" else ("teach", "score"):
        if stage in parents:
            corrections += read_table(parents[stage].file("corrections.parquet"), Correction)
    alternatives: dict[str, Alternatives] = {}
    if "score" in parents:
        kept = read_table(parents["score"].file("alternatives.parquet"), Alternatives)
        alternatives = by_id(kept, "attempt_id")
    return Scored(
        run, joined_pairs(run, node, parents, codec.digest), codec, corrections, alternatives
    )
