"""The command: settings, one table per job, and the files `peers-NAME-TIME.json` and `.md`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benchmarks.__main__ import CONF
from benchmarks.bench import BenchSettings
from benchmarks.peers.base import chosen_peers
from benchmarks.peers.operators import operators
from benchmarks.peers.report import Table, as_json, as_markdown, cells
from benchmarks.peers.rotation import FAILED, RUN, Row, measure
from benchmarks.peers.subject import KINDS, Subject
from benchmarks.runner import written
from benchmarks.table import machine


@dataclass(frozen=True)
class Settings(BenchSettings):
    """The root of `conf/peers.yaml`. `training`, `sampling` and `rewriting` are the keyword
    arguments of the methods of `subject.Subject`."""

    path: str | None
    work: list[str] | str | None
    peers: list[str] | str | None
    operators: int
    training: dict[str, Any]
    sampling: dict[str, Any]
    rewriting: dict[str, Any]

    def kinds(self) -> list[str]:
        """Return the chosen kinds of work; ValueError for an unknown one."""
        chosen = [self.work] if isinstance(self.work, str) else list(self.work or KINDS)
        unknown = [name for name in chosen if name not in KINDS]
        if unknown:
            raise ValueError(f"no work {', '.join(unknown)}; there are {', '.join(KINDS)}")
        return chosen

    def subject(self) -> Subject:
        """Return the network and samples; FileNotFoundError for a missing model."""
        return Subject(self.bench(), self.folder())

    def folder(self) -> Path | None:
        """Return the model folder of `path`, converted from a GGUF file if it is one."""
        if self.path is None:
            return None
        if not self.path.endswith(".gguf"):
            return Path(self.path)

        from rlmec.lm.gguf import converted

        return converted(self.path, Path(self.output))

    @property
    def name(self) -> str:
        return self.preset if self.path is None else Path(self.path).stem


def run(settings: Settings) -> int:
    """Return 0, or 1 if a result is wrong or a peer failed."""
    kinds = settings.kinds()
    subject = settings.subject()
    about = machine(subject.bench.device) | {
        "name": settings.name,
        "precision": settings.precision,
        "seed": settings.seed,
        "repeats": settings.repeats,
        "settings": {kind: getattr(settings, kind) for kind in kinds},
        "pairs": {"source": subject.samples.source, **subject.samples.lengths()},
    }
    names = [settings.peers] if isinstance(settings.peers, str) else settings.peers

    path = _new_path(settings)
    tables: list[Table] = []
    for kind in kinds:
        for job in getattr(subject, kind)(**getattr(settings, kind)):
            print(f"{job.kind}: {job.case}", flush=True)
            chosen = chosen_peers(kind, names)
            rows = measure(job, chosen, settings.repeats, _say)
            tables.append(Table(job.kind, job.case, rows, _operators(settings, job, rows)))
            # Each table is written when it is complete: a later one may take an hour.
            path.write_text(as_json(tables, about), encoding="utf-8")
            path.with_suffix(".md").write_text(as_markdown(tables, about), encoding="utf-8")
    print("\n" + as_markdown(tables, about))
    print(f"written: {path}")
    return _verdict(tables)


def _operators(settings: Settings, job: Any, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """The time of each peer that runs by kind of operation; empty if it is not asked for."""
    found = {}
    for row in rows if settings.operators else ():
        if row.state == RUN:
            work = row.peer.prepare(job)
            found[row.peer.name] = operators(job, work, settings.operators)
            work.close()
    return found


def _new_path(settings: Settings) -> Path:
    """A new JSON file for the tables; their Markdown goes next to it."""
    name = f"peers-{settings.name}-{settings.precision}"
    return written(Path(settings.output), name, "")


def _verdict(tables: Sequence[Table]) -> int:
    """The exit code, after printing what is wrong and what failed."""
    code = 0
    for table in tables:
        for row in table.rows:
            if row.state.startswith(FAILED) or not row.is_equal:
                print(f"{table.kind}, {row.peer.name}: {'; '.join(cells(row, table)[-1:])}")
                code = 1
    return code


def _say(text: str) -> None:
    print(text, flush=True)


def main(arguments: list[str]) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = OmegaConf.to_container(compose("peers", arguments), resolve=True)
    values = cast(dict[str, Any], tree)
    values.pop("rows", None)  # of a preset: the rows of `python -m benchmarks`
    try:
        return run(Settings(**values))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
