"""The problems of a task that reads rows: its splits, what is left out, and why.

In: tables of rows (`rlmec.tasks.rows`), one per split or one to be cut into splits, and a function
that makes the problem of a row. Out: the problems of a split, each question once.

Where a file is cut into splits, the place of a question depends on a hash of its text alone, so
rows can be added or reordered without moving others. Where no dev split is given, it is cut from
train. A row that gives no problem is listed with its place and the reason.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlmec.answers.final_answer import final_answer
from rlmec.answers.numbers import parse_number
from rlmec.answers.options import HEADING
from rlmec.records import Problem
from rlmec.tasks.base import SPLITS
from rlmec.tasks.rows import Row, files_of, hub_rows, iter_rows, shortened

Paths = str | Sequence[str]
"""One file, folder or pattern, or several."""
Build = Callable[[Row], Problem | str]
"""Makes the problem of a row, or says why the row has to be left out."""

WHOLE = "whole"
"""The name of a table that is cut into splits; other tables have the name of their split."""
SPLIT_NAMES = {
    "train": ("train", "training"),
    "dev": ("dev", "development", "validation", "valid", "val"),
    "test": ("test", "testing"),
}
"""Words in a file's name that identify its split, where a folder is read."""


def digest_of(question: str) -> str:
    """32 hexadecimal digits that identify a question, blanks around it aside."""
    return hashlib.blake2b(question.strip().encode(), digest_size=16).hexdigest()


def share_of(question: str) -> float:
    """A number in [0, 1) that depends on the question alone, evenly spread."""
    return int(digest_of(question)[:13], 16) / 16**13


def ids_by_question(problems: Sequence[Problem]) -> dict[str, str]:
    """The ids of problems by their question.

    A question that shows its options is found without them too, unless two problems differ in
    their options alone.
    """
    bare: dict[str, str | None] = {}
    for problem in problems:
        words = problem.question.split(HEADING)[0].strip()
        bare[words] = None if words in bare else problem.id
    found = {words: id for words, id in bare.items() if id is not None}
    return found | {problem.question.strip(): problem.id for problem in problems}


# ---- tables -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Rows that can be read again and again, and the name that messages give them."""

    name: str
    rows: Callable[[], Iterable[Row]]


def file_tables(path: Paths | Mapping[str, Paths | None], whole: str = WHOLE) -> dict[str, Table]:
    """The tables of `path`: one per split, or one to be cut into splits (or the split `whole`).

    `path` names files (`rows.files_of`), or maps splits to files. A folder whose file names tell
    their split, such as `train.jsonl` and `test-00000-of-00002.parquet`, gives one table per split.

    Raises FileNotFoundError for a missing file, and ValueError for names that are no splits, for no
    name at all, and for a folder in which only some files tell their split.
    """
    if isinstance(path, Mapping):
        paths = {split: files for split, files in path.items() if files is not None}
        unknown = [split for split in paths if split not in SPLITS]
        if unknown or not paths:
            raise ValueError(
                f"path names {', '.join(map(repr, unknown)) or 'no file'}; "
                f"expected one file, or files for some of {', '.join(SPLITS)}"
            )
    else:
        paths = _files_by_split(path) or {whole: path}

    for files in paths.values():
        files_of(files)  # raises for one that is missing
    return {
        split: Table(_shown(files), functools.partial(iter_rows, files))
        for split, files in paths.items()
    }


def _files_by_split(path: Paths) -> dict[str, Paths] | None:
    """The files of a folder by the split in their names; None where no name has one."""
    if not isinstance(path, str) or not Path(path).is_dir():
        return None

    found: dict[str, list[str]] = {}
    unnamed = []
    for file in files_of(path):
        split = _split_in(Path(file).relative_to(path)) if file != path else None
        if split is None:
            unnamed.append(file)
        else:
            found.setdefault(split, []).append(file)
    if found and unnamed:
        raise ValueError(
            f"{path}: the name of {unnamed[0]} ({len(unnamed)} such files) has no split, but names "
            f"of others have one ({', '.join(found)}): name the files with "
            "task.path.train=FILE, task.path.test=FILE"
        )
    return {split: found[split] for split in SPLITS if split in found} or None


def _split_in(place: Path) -> str | None:
    """The split that the parts of a path name, the file's own name first."""
    for part in reversed(place.parts):
        words = re.split(r"[^a-z]+", part.lower())
        for split, names in SPLIT_NAMES.items():
            if not set(words).isdisjoint(names):
                return split
    return None


def _shown(files: Paths) -> str:
    if isinstance(files, str):
        return files
    return files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more files"


def hub_tables(
    hub: str,
    configs: str | Sequence[str] | None,
    revision: str | None,
    splits: Mapping[str, str | None],
) -> dict[str, Table]:
    """One table for each of our splits that `splits` gives a split of the data set for.

    The rows of several configurations follow each other in their order. Reading a table raises what
    `rows.hub_rows` raises.
    """
    names = [configs] if isinstance(configs, str) or configs is None else list(configs)

    def rows(theirs: str) -> Iterable[Row]:
        for name in names:
            yield from hub_rows(hub, name, revision, theirs)

    return {
        ours: Table(f"{hub}/{theirs}", functools.partial(rows, theirs))
        for ours, theirs in splits.items()
        if theirs is not None
    }


# ---- problems ---------------------------------------------------------------------------------


@dataclass
class _Read:
    """What was read of one table."""

    problems: list[Problem] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class ProblemTables:
    """Problems of the splits of one task, read when a split is first asked for.

    A table named `WHOLE` is cut into test (`test_share`), dev (`dev_share`) and train (the rest).
    Without a dev table, `dev_share` of train becomes dev.
    """

    def __init__(
        self,
        task: str,
        tables: Mapping[str, Table],
        build: Build,
        dev_share: float,
        test_share: float,
    ) -> None:
        if not (0 <= dev_share < 1 and 0 <= test_share < 1 and dev_share + test_share < 1):
            raise ValueError(
                f"task {task}: dev_share {dev_share} and test_share {test_share} must be at least "
                "0 and leave something for train"
            )
        self.task, self.build = task, build
        self.tables = dict(tables)
        self.dev_share, self.test_share = dev_share, test_share
        self._read: dict[str, _Read] = {}

    @property
    def left_out(self) -> list[str]:
        """Rows read so far that gave no problem, each with its place and the reason."""
        return [line for read in self._read.values() for line in read.left_out]

    def problems(self, split: str) -> list[Problem]:
        """The problems of `split` in file order; ValueError for an unknown or empty split."""
        if split not in SPLITS:
            raise ValueError(f"task {self.task}: split {split!r} is none of {', '.join(SPLITS)}")
        table, low, high = self._place(split)
        read = self._table(table)
        problems = [p for p in read.problems if low <= share_of(p.question) < high]
        if not problems:
            raise ValueError(self._why_empty(split, table, read, low, high))
        return problems

    def _place(self, split: str) -> tuple[str, float, float]:
        """The table of a split and the range of `share_of` that belongs to it."""
        test, dev = self.test_share, self.dev_share
        if WHOLE in self.tables:
            ranges = {"test": (0.0, test), "dev": (test, test + dev), "train": (test + dev, 1.0)}
            return WHOLE, *ranges[split]

        cut = dev if "dev" not in self.tables else 0.0
        if split == "train" and "train" in self.tables:
            return "train", cut, 1.0
        if split == "dev" and "train" in self.tables and cut:
            return "train", 0.0, cut
        if split in self.tables:
            return split, 0.0, 1.0

        only = "" if "train" in self.tables else "it is for evaluation only; "
        raise ValueError(
            f"task {self.task} has no split {split!r}, only {', '.join(self.tables)}: {only}"
            f"give it a file with task.path.{split}=FILE"
        )

    def _why_empty(self, split: str, table: str, read: _Read, low: float, high: float) -> str:
        """The message for an empty split: rows without a problem, or no question in its range."""
        name = self.tables[table].name
        message = (
            f"task {self.task}: split {split!r} is empty: {len(read.problems)} problems were read "
            f"from {name}, {len(read.left_out)} rows left out"
        )
        if read.left_out:
            message += f", the first: {read.left_out[0]}"
        if read.problems:
            return f"{message}; expected questions whose hash lies in [{low:g}, {high:g})"
        return message if read.left_out else f"{message}; {name} has no rows"

    def _table(self, table: str) -> _Read:
        if table not in self._read:
            self._read[table] = self._made(self.tables[table].rows())
        return self._read[table]

    def _made(self, rows: Iterable[Row]) -> _Read:
        """The problems of the rows; of rows with the same question the first one counts."""
        left_out: list[str] = []
        kept: dict[str, Problem] = {}
        places: dict[str, str] = {}  # of the row that has an id
        for row in rows:
            problem = self.build(row)
            if isinstance(problem, str):
                left_out.append(f"{row.where}: {problem}")
            elif (earlier := kept.get(problem.question.strip())) is not None:
                reason = "an earlier row has the same question"
                if not _same_answer(earlier.answer, problem.answer):
                    reason += f" and answers {shortened(earlier.answer)!r}, "
                    reason += f"not {shortened(problem.answer)!r}"
                left_out.append(f"{row.where}: {reason}")
            elif problem.id in places:
                raise ValueError(
                    f"{row.where}: id {problem.id!r} belongs to another question in "
                    f"{places[problem.id]}; expected one id per question"
                )
            else:
                kept[problem.question.strip()] = problem
                places[problem.id] = row.where
        return _Read(list(kept.values()), left_out)


def _same_answer(first: str, second: str) -> bool:
    """Whether two gold answers are written alike, or are the same number."""
    number = parse_number(first, bare=True)
    same = number is not None and number == parse_number(second, bare=True)
    return same or first.strip() == second.strip()


class TableTask:
    """What tasks that read tables have in common: their problems, and the rows left out.

    A task of this kind sets `name` and `_tables` and has a method `judge`.
    """

    name: str
    _tables: ProblemTables

    @property
    def left_out(self) -> list[str]:
        """Rows read so far that gave no problem, each with its place and the reason."""
        return self._tables.left_out

    def problems(self, split: str) -> list[Problem]:
        """The problems of `split` in file order."""
        return self._tables.problems(split)

    def final_answer(self, text: str) -> str | None:
        """What follows the last answer marker, or None."""
        return final_answer(text)


def make_problem(
    row: Row,
    id: str,
    question: str,
    answer: str,
    solution: str | None,
    kind: str = "",
    options: tuple[str, ...] = (),
) -> Problem:
    """The problem of a row. A blank solution is none.

    Raises ValueError with the row where the question or the id is blank.
    """
    if not question.split(HEADING)[0].strip():
        raise ValueError(f"{row.where}: the question is blank; expected a text")
    if not id:
        raise ValueError(f"{row.where}: the id is blank; expected a text")
    reference = solution if solution and solution.strip() else None
    return Problem(id, question, answer, reference, kind, options)
