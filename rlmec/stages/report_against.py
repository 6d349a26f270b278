"""Two runs side by side: what `report.against` names, and how this run differs from it.

In: a run folder or a report of the same store, and the artifacts of this run. Out: tables,
sentences and curves of both runs for the first page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlmec.pipeline.chain import Run, curve_of
from rlmec.records import Attempt
from rlmec.report.figures import Rows
from rlmec.report.first_page import ShownFigure, SideBySide
from rlmec.report.tables import Line, Table, compared_lines, credit_words, paired_p_value
from rlmec.runtime.sweeps import SUMMARY, read_summary
from rlmec.settings.binding import ConfigurationError
from rlmec.stages.report_facts import MAIN, artifact_label
from rlmec.store.artifacts import Artifact, ArtifactError
from rlmec.store.begun import flat
from rlmec.store.tables import read_table

THIS, OTHER = "this run", "other run"

ABSENT = "absent"
"""What a table shows for a setting that one of the runs does not have."""

LONGEST = 100
"""Characters of a setting that are shown."""


@dataclass(frozen=True, eq=False)
class OtherRun:
    """The run to compare with: its report, the content of its `table.json`, and what of its
    artifacts is still there, by the names under which its report read them."""

    report: Artifact
    content: Mapping[str, Any]
    parents: Mapping[str, Artifact]

    @property
    def lines(self) -> list[Line]:
        return [Line(**line) for line in self.content["lines"]]


def find_other(run: Run) -> Artifact | None:
    """The report that `report.against` names; None without one.

    Raises ConfigurationError for what is neither a report of this run's store nor the folder of a
    run that ended with one.
    """
    named = run.settings.report.against
    if named is None:
        return None
    folder = Path(named)
    if (folder / SUMMARY).is_file():
        folder = _report_of(folder)

    store = run.store
    if folder.parent.resolve() != (store.root / "report").resolve():
        raise ConfigurationError(
            f"report.against: {named} is neither the folder of a run (with {SUMMARY}) nor a report "
            f"below {store.root / 'report'}"
        )
    run.uses.hold("report", folder.name)
    try:
        found = store.find("report", folder.name)
    except ArtifactError as error:
        raise ConfigurationError(f"report.against: {error}") from error
    if found is None:
        raise ConfigurationError(f"report.against: there is no report in {folder}")
    content = _content(found)
    if "facts" not in content or content["lines"][-1]["name"] != MAIN:
        raise ConfigurationError(
            f"report.against: the report in {folder} was made by an older version; make it again "
            "with stage=report"
        )
    return found


def _report_of(folder: Path) -> Path:
    """The folder of the report that a run made or reused."""
    stages = read_summary(folder)["stages"]
    reports = [entry["artifact"] for entry in stages if entry["name"] == "report"]
    if not reports:
        raise ConfigurationError(
            f"report.against: the run in {folder} has no report; run it again with stage=report"
        )
    return Path(reports[-1])


def _content(report: Artifact) -> dict[str, Any]:
    return json.loads(report.file("table.json").read_text(encoding="utf-8"))


def read_other(run: Run, report: Artifact) -> OtherRun:
    """The other run, with those of its artifacts that are not removed yet."""
    parents = {}
    for name, fp in report.manifest["parents"].items():
        found = run.store.find(name.partition("/")[0], fp)
        if found is not None:
            parents[name] = found
    return OtherRun(report, _content(report), parents)


def side_by_side(
    other: OtherRun,
    facts: Sequence[tuple[str, str]],
    lines: Sequence[Line],
    credit: Mapping[str, Any],
    parents: Mapping[str, Artifact],
    figures: Sequence[ShownFigure] = (),
) -> SideBySide:
    """This run, given by its facts, lines, credit and artifacts, next to the other one."""
    theirs = {name: str(value) for name, value in other.content["facts"]}
    rows = [[name, value, theirs.get(name, ABSENT)] for name, value in facts]
    differing = [row for row in rows if row[1] != row[2]]
    settings = different_settings(parents, other.parents)
    tables = [Table("Facts", ["fact", THIS, OTHER], differing)]
    tables.append(Table("Settings", ["setting", THIS, OTHER], settings))

    paired = {line.name: _paired(line.name, parents, other.parents) for line in lines}
    tables.append(compared_lines(lines, other.lines, paired))
    tables.append(_seconds(parents, other.parents))

    return SideBySide(
        f"../{other.report.fingerprint}/index.html",
        [table for table in tables if table.rows],
        [(THIS, credit_words(credit)), (OTHER, credit_words(other.content["credit"]))],
        figures,
    )


def both_fits(other: OtherRun, parents: Mapping[str, Artifact], policy: str) -> dict[str, Rows]:
    """What the trainings of the `policy` of both runs logged, by the name of the run."""
    key = f"policy/{policy}"
    fits = {THIS: parents, OTHER: other.parents}
    return {name: curve_of(made[key]) for name, made in fits.items() if key in made}


def different_settings(
    first: Mapping[str, Artifact], second: Mapping[str, Artifact]
) -> list[list[str]]:
    """One row per setting that differs between artifacts of the same name: its key and values."""
    found: dict[str, list[str]] = {}
    for name in first:
        if name not in second:
            continue
        one, two = (flat(side[name].manifest["settings"]) for side in (first, second))
        for key in sorted(one | two):
            values = [_shown(side.get(key, ABSENT)) for side in (one, two)]
            if one.get(key, ABSENT) != two.get(key, ABSENT):
                found.setdefault(key, [key, *values])
    return list(found.values())


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _paired(
    name: str, first: Mapping[str, Artifact], second: Mapping[str, Artifact]
) -> float | None:
    """McNemar's exact p-value of a model of both runs; None if it was judged on other problems."""
    key = f"evaluate/{name}"
    if key not in first or key not in second:
        return None
    tasks = [side[key].manifest["settings"]["task"] for side in (first, second)]
    one, two = (read_table(side[key].file("attempts.parquet"), Attempt) for side in (first, second))
    if tasks[0] != tasks[1] or {a.problem_id for a in one} != {a.problem_id for a in two}:
        return None
    return paired_p_value(two, one)


def _seconds(first: Mapping[str, Artifact], second: Mapping[str, Artifact]) -> Table:
    """The seconds of the stages that both runs have. An artifact of both is marked as shared."""
    rows = []
    for name in first:
        if name not in second:
            continue
        cells = [f"{side[name].manifest['seconds']:,.1f}" for side in (first, second)]
        if first[name].fingerprint == second[name].fingerprint:
            cells[1] = "the same artifact"
        rows.append([artifact_label(name), *cells])
    return Table("Seconds per stage", ["stage", THIS, OTHER], rows)
