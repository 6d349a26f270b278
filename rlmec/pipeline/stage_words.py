"""The two or three figures of a stage that its line on the terminal shows, in words.

In: the rows and metrics of an artifact. Out: phrases. All metrics are in the manifest,
`summary.json` and the log of the job; `docs/metrics.md` defines them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PHRASES = {
    "warmup": ("{rows} steps", "{dev/accuracy} of dev problems right"),
    "sample": (
        "{rows} attempts",
        "{sample/accuracy} right",
        "{sample/no_answer_rate} without an answer",
    ),
    "teach": ("{teach/accepted} of {rows} corrections accepted",),
    "grm": ("{rows} steps", "{grm/rewrite_success} of held-out attempts corrected"),
    "score": ("{rows} attempts", "{score/accepted} more corrections"),
    "policy": ("{rows} steps", "{dev/accuracy} of dev problems right"),
    "evaluate": ("{accuracy} right (interval {accuracy_low} to {accuracy_high})",),
    "report": ("start {report/start/accuracy} right", "policy {report/policy/accuracy}"),
}
"""What is said of each stage. A phrase whose metrics a stage does not have is left out. Those of
`evaluate` are named without `eval/TASK/`."""


def in_words(stage: str, rows: Any, metrics: Mapping[str, Any]) -> list[str]:
    """The phrases of a stage; for a stage without any its number of rows."""
    if stage == "evaluate":
        metrics = {name.split("/", 2)[-1]: value for name, value in metrics.items()}
    known = {"rows": rows, **metrics}
    phrases: Sequence[str] = PHRASES.get(stage, ("{rows} rows",))
    return [words for phrase in phrases if (words := _filled(phrase, known)) is not None]


def _filled(phrase: str, known: Mapping[str, Any]) -> str | None:
    for name in names_in(phrase):
        if known.get(name) is None:
            return None
        phrase = phrase.replace(f"{{{name}}}", _shown(known[name]))
    return phrase


def names_in(phrase: str) -> list[str]:
    """The metrics that a phrase shows."""
    return [part.partition("}")[0] for part in phrase.split("{")[1:]]


def _shown(value: Any) -> str:
    """A count as it is, a share in percent."""
    return f"{100 * value:.1f} %" if isinstance(value, float) else f"{value}"
