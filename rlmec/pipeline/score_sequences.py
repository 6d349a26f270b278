"""Log-probs of given completions under one model, by fixed parts; and two uses of them.

In: prompts and completions as token ids. Out: one `SequenceLogprobs` per completion, from the same
forward pass as in training. The stage `score` computes old log-probs with it, and a policy's
training that reads no scores its own. Here it also compares the sampler's log-probs with the
trainer's, and scores corrections under the policy's start, which DPO needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rlmec.data.row import Row
from rlmec.on_demand import Made
from rlmec.pipeline import models
from rlmec.pipeline.chain import Run, Stage
from rlmec.pipeline.predict import Tables, predict_parts
from rlmec.records import Attempt, Pair, Score, SequenceLogprobs
from rlmec.store.parts import PartFolder
from rlmec.store.tables import TableRecords
from rlmec.training.policy_module import PolicyModule
from rlmec.training.predict_parts import ScoringPart, cut

AGREEMENT = "agreement"
"""Part folder of the comparison of sampled log-probs; `chain.RESUMING` drops it at the end."""


def attempt_row(attempt: Attempt) -> Row:
    """The row that scores an attempt's completion behind its own prompt."""
    ids = [*attempt.prompt_ids, *attempt.completion_ids]
    return Row.likelihood(attempt.id, ids, len(attempt.prompt_ids))


def score_sequences(
    run: Run,
    title: str,
    model: models.LanguageModel,
    rows: Sequence[Row],
    folder: Path,
    *,
    part_size: int,
    precision: str,
    seed: int,
) -> Sequence[SequenceLogprobs]:
    """Log-probs (nats) of the scored tokens of each row, in the order of `rows`, on every rank.

    Computed by parts of `part_size` rows below `folder`, so that a second call after a kill
    computes only what is missing. `rows` may be made when they are asked for. What is returned is
    read from a table when it is asked for.
    """
    if not rows:
        return []
    codec = model.codec
    groups = cut(len(rows), part_size)
    parts = Made(len(groups), lambda i: ScoringPart(i, [rows[n] for n in groups[i]]))

    def finish(part: ScoringPart, output: list[list[float]]) -> tuple[Tables, dict[str, int]]:
        scored = [
            SequenceLogprobs(row.id, values, codec.digest)
            for row, values in zip(part.rows, output, strict=True)
        ]
        return {"logprobs": (scored, SequenceLogprobs)}, {}

    made = PartFolder(folder, len(parts))
    predict_parts(
        run,
        title,
        PolicyModule(model.network(), pad_id=codec.pad_id, end_ids=codec.end_ids),
        parts,
        made,
        finish,
        precision=precision,
        seed=seed,
        first_item=lambda index: rows[groups[index][0]].id,
    )
    table = folder.with_suffix(".parquet")
    run.ranks.share(lambda: made.merge("logprobs", SequenceLogprobs, table))
    return TableRecords([table], SequenceLogprobs)


def old_logprobs(
    run: Run, title: str, model: models.LanguageModel, attempts: Sequence[Attempt], work: Path
) -> Sequence[SequenceLogprobs]:
    """Log-probs (nats) of the attempts under the policy's start, in their order."""
    s = run.settings.score
    return score_sequences(
        run,
        f"{title} (old policy)",
        model,
        Made(len(attempts), lambda i: attempt_row(attempts[i])),
        work / "parts" / "old",
        part_size=s.part_size,
        precision=s.precision,
        seed=s.seed,
    )


def old_scores(
    run: Run, title: str, model: models.LanguageModel, attempts: Sequence[Attempt], work: Path
) -> Sequence[Score]:
    """Scores without a GRM: the log-probs of attempts under the policy's start, and NaN for those
    of the GRM, for trainings that read none of it."""
    scored = old_logprobs(run, title, model, attempts, work)

    def score(number: int) -> Score:
        own = scored[number]
        return Score(own.id, [math.nan] * len(own.logprobs), own.logprobs, own.tokenizer)

    return Made(len(scored), score)


def correction_logprobs(
    run: Run, title: str, model: models.LanguageModel, pairs: Sequence[Pair], work: Path
) -> dict[str, list[float]]:
    """Log-probs (nats) of each wrong attempt's correction under `model`, by the attempt's id."""
    s = run.settings.score
    rows = []
    for pair in pairs:
        if pair.target_ids and not pair.attempt.is_right:
            prompt = pair.attempt.prompt_ids
            rows.append(Row.likelihood(pair.attempt.id, [*prompt, *pair.target_ids], len(prompt)))

    scored = score_sequences(
        run,
        f"{title} (corrections)",
        model,
        rows,
        work / "parts" / "corrections",
        part_size=s.part_size,
        precision=s.precision,
        seed=s.seed,
    )
    return {sequence.id: list(sequence.logprobs) for sequence in scored}


def logprob_difference(stage: Stage, work: Path, model: models.LanguageModel) -> dict[str, float]:
    """How far the sampler's log-probs are from the trainer's, over `sample.logprob_checks`
    attempts.

    Returns mean and maximum of |sampled - trained| (nats) over all tokens of the checked attempts,
    which are spread evenly over the stage's; nothing where there is none. Between an engine and the
    trainer, or between cached decoding and one pass over the whole, the values differ by rounding.
    More than that means that the tokens were not sampled from the weights that are trained. Rewards
    never use the sampler's values.
    """
    run, s = stage.run, stage.run.settings.sample
    chosen = run.ranks.share(lambda: _spread(work / "attempts.parquet", s.logprob_checks))
    if not chosen:
        return {}

    scored = score_sequences(
        run,
        f"{stage.title} (log-probs)",
        model,
        [attempt_row(attempt) for attempt in chosen],
        work / AGREEMENT / "trained",
        part_size=len(chosen),
        precision=s.precision,
        seed=s.seed,
    )
    trained = {sequence.id: sequence.logprobs for sequence in scored}
    return _difference(chosen, trained)


def _spread(path: Path, count: int) -> list[Attempt]:
    """`count` sampled attempts at even distances, from the table of a stage."""
    if not count:
        return []
    attempts = TableRecords([path], Attempt)
    sampled = [n for n, (logprobs,) in enumerate(attempts.columns("logprobs")) if logprobs]
    step = max(1, len(sampled) // count)
    return list(attempts.chosen(sampled[::step][:count]))


def _difference(
    attempts: Sequence[Attempt], trained: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    gaps = [
        np.abs(np.asarray(attempt.logprobs) - np.asarray(trained[attempt.id]))  # [n]
        for attempt in attempts
    ]
    gap = np.concatenate(gaps)  # [tokens of all attempts]
    return {
        "sample/logprob_difference/mean": float(gap.mean()),
        "sample/logprob_difference/max": float(gap.max()),
    }
