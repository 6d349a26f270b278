"""Rows of a user's data, whatever file or data set holds them, each with its place for messages.

In: the path of a file, a folder, a pattern such as `data/*.jsonl`, a list of these, or the name of
a data set on the Hugging Face hub. Out: rows in file order, one at a time. The formats are JSON
lines, one JSON list, CSV, TSV, Parquet and Arrow; each may be packed (gzip, bzip2, xz, zstd), and a
folder may be one that `datasets` saved. Only a JSON list is held in memory as a whole.

Every error names the file and the row or line. CSV fields stay the text that the file has: nothing
guesses types, so `007` and `1,000` are not changed.
"""

from __future__ import annotations

import bz2
import csv
import glob
import gzip
import io
import json
import lzma
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

MISSING: Any = object()
"""What `Row.value` gives for a field that the row does not have."""

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
PACKED = (".gz", ".bz2", ".xz", ".zst")
NOT_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files that `datasets` writes next to the rows of a data set."""

LONGEST_CELL = 100_000_000
"""Characters of one CSV field; the library's own limit, 131,072, is below some solutions."""
USER_ROLES = ("user", "human")
ASSISTANT_ROLES = ("assistant", "gpt", "model")
"""Names of the speakers of a conversation."""
BATCH = 1024
"""Rows of a Parquet or Arrow file that are held at a time."""

_EXPECTED = "expected one JSON object per line, or one list of them"
_PATTERN = frozenset("*?[")
_NO_BLANK = re.compile(r"[^ \t\r\n]")
_REFUSED = {b"PK\x03\x04": "a zip archive or a spreadsheet", b"%PDF": "a PDF"}


# ---- one row ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One row of a file.

    `number` counts from 1: lines of JSON lines, elements of a list, rows of a table. `line` is
    where the row begins in a file whose rows are not its lines, such as a JSON list.
    """

    file: str
    number: int
    values: dict[str, Any]
    line: int | None = None

    @property
    def where(self) -> str:
        """The file, the row's number and line and, where the row has one, its id."""
        place = f"{self.file}, row {self.number}"
        if self.line is not None:
            place += f", line {self.line}"
        known = next((self.values[k] for k in ("id", "ID", "problem_id") if k in self.values), None)
        return place if known is None else f"{place} (id {shortened(known)})"

    @property
    def names(self) -> str:
        """The fields that the row has, for a message; those within an object with a dot."""
        found = []
        for name, value in self.values.items():
            inner = list(value) if isinstance(value, dict) and value else None
            found += [name] if inner is None else [f"{name}.{key}" for key in inner]
        return shortened(", ".join(found)) or "no fields"

    def value(self, field: str) -> Any:
        """What the field holds, or `MISSING`.

        A field may be a path: `answer.value` is the field `value` of the object in `answer`, and
        `turns.0` the first element of a list. A field whose own name has the dot comes first.
        """
        if field in self.values:
            return self.values[field]
        found: Any = self.values
        for name in field.split("."):
            if isinstance(found, dict) and name in found:
                found = found[name]
            elif isinstance(found, list | tuple) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                return MISSING
        return found

    def text(self, field: str) -> str:
        """The field as text, numbers written out.

        Raises ValueError where the field is missing, is neither a text nor a finite number, or
        holds half a character (a lone surrogate), which no table can store.
        """
        name, value = shortened(field), self.value(field)
        if value is MISSING:
            raise ValueError(
                f"{self.where}: no field {name!r}; expected a row with {name!r}, found {self.names}"
            )
        if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
            raise ValueError(
                f"{self.where}: field {name!r} is a {type(value).__name__}; "
                "expected a text or a number"
            )
        if not isinstance(value, str) and not math.isfinite(value):
            raise ValueError(f"{self.where}: field {name!r} is {value}; expected a finite number")
        return str(value) if not isinstance(value, str) else whole_text(value, self.where, field)

    def text_or_none(self, field: str) -> str | None:
        """The field as text; None where it is missing, null or blank, which all mean the same."""
        if self.value(field) in (MISSING, None):
            return None
        text = self.text(field)
        return text if text.strip() else None

    def texts(self, field: str) -> tuple[str, ...]:
        """The field as a list of texts, numbers written out; ValueError where it is not one."""
        values = self.value(field)
        if not isinstance(values, list | tuple) or not values:
            found = "missing" if values is MISSING else shortened(values)
            raise ValueError(f"{self.where}: field {field!r} is no list of texts: {found}")
        return tuple(Row(self.file, self.number, {field: v}, self.line).text(field) for v in values)


def shortened(value: Any) -> str:
    """A value as a message shows it: its beginning, on one line, printable."""
    text = value if isinstance(value, str) else repr(value)
    text = text if len(text) <= 200 else f"{text[:200]}..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def whole_text(text: str, where: str, field: str) -> str:
    """`text`, if it can be written as UTF-8.

    Raises ValueError with its place for a lone surrogate: a JSON escape such as \\ud83d without its
    other half.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: field {shortened(field)!r} has half a character (a lone surrogate) at "
            f"{error.start}; expected a text"
        ) from error
    return text


def message_of(row: Row, field: str, message: Any) -> tuple[str, str]:
    """The role and the text of one message: `role` and `content`, or `from` and `value`.

    Raises ValueError, with the row, where `message` is not one.
    """
    inner = message if isinstance(message, dict) else {}
    role, content = inner.get("role", inner.get("from")), inner.get("content", inner.get("value"))
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        texts = [part.get("text") for part in content]
        content = "".join(texts) if all(isinstance(text, str) for text in texts) else None
    if not isinstance(role, str) or not isinstance(content, str):
        raise ValueError(
            f"{row.where}: field {field!r} holds {shortened(message)}; expected messages with role "
            "and content, both texts"
        )
    return role, Row(row.file, row.number, {field: content}, row.line).text(field)


# ---- which files ------------------------------------------------------------------------------


def files_of(path: str | Sequence[str]) -> list[str]:
    """The files, or folders saved by `datasets`, that a path names, in a fixed order.

    A folder stands for every file below it whose ending is in `FORMATS`, sorted by name; hidden
    files are passed over. Raises FileNotFoundError where there is no such file.
    """
    if not isinstance(path, str):
        return [file for one in path for file in files_of(one)]
    place = Path(path)
    if place.is_file() or _is_saved_dataset(place):
        return [path]
    if place.is_dir():
        found = [str(file) for file in sorted(place.rglob("*")) if _has_rows(file, place)]
        if not found:
            raise FileNotFoundError(
                f"no file of rows in the folder {path!r}; expected files that end in "
                f"{', '.join(FORMATS)}, packed ({', '.join(PACKED)}) or not"
            )
        return found
    found = sorted(glob.glob(path, recursive=True)) if _PATTERN & set(path) else []
    found = [file for file in found if Path(file).is_file()]
    if not found:
        raise FileNotFoundError(
            f"no file {path!r}; expected JSON lines, a JSON list, CSV, TSV or Parquet, a folder or "
            "a pattern of such files (a data set on the hub has a setting of its own, hub)"
        )
    return found


def content_files(path: Any) -> list[str]:
    """Every file whose content decides what `path` gives, for a digest; none for what is no path
    that exists."""
    try:
        named = files_of(path)
    except (FileNotFoundError, TypeError, OSError):
        return []
    return [
        str(file)
        for name in named
        for file in (sorted(Path(name).rglob("*")) if Path(name).is_dir() else [Path(name)])
        if file.is_file()
    ]


def _has_rows(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return (
        not hidden
        and file.is_file()
        and file.name not in NOT_ROWS
        and _unpacked_name(file.name).endswith(FORMATS)
    )


def _is_saved_dataset(folder: Path) -> bool:
    """Whether `datasets` saved one data set (not one per split) in this folder."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def _unpacked_name(name: str) -> str:
    name = name.lower()
    return next((name.removesuffix(end) for end in PACKED if name.endswith(end)), name)


# ---- reading files ----------------------------------------------------------------------------


def read_rows(path: str | Sequence[str]) -> list[Row]:
    """The rows of `path` all at once, as `iter_rows` gives them."""
    return list(iter_rows(path))


def iter_rows(path: str | Sequence[str]) -> Iterator[Row]:
    """The rows of every file that `path` names (`files_of`), blank lines skipped.

    Raises FileNotFoundError for a missing file, and ValueError with the file and its row or line
    for content that is no row.
    """
    for file in files_of(path):
        yield from _rows_of_file(file)


def _rows_of_file(path: str) -> Iterator[Row]:
    if Path(path).is_dir():
        yield from _rows_of_saved_dataset(path)
        return

    with _named_damage(path):
        with _open(path) as file:
            start = file.read(6)
        name = _unpacked_name(path)
        for magic, what in _REFUSED.items():
            if start.startswith(magic):
                raise ValueError(f"{path}: {what}; expected rows as JSON lines, CSV or Parquet")
        if start.startswith(b"PAR1") or name.endswith(".parquet"):
            yield from _rows_of_parquet(path)
        elif start.startswith(b"ARROW1") or name.endswith(".arrow"):
            yield from _rows_of_arrow(path, start.startswith(b"ARROW1"))
        elif name.endswith((".csv", ".tsv")):
            yield from _rows_of_csv(path, "\t" if name.endswith(".tsv") else None)
        else:
            yield from _rows_of_json(path)


@contextmanager
def _named_damage(path: str) -> Iterator[None]:
    """Errors of the packers and of the decoding as a ValueError that names the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 at byte {_first_bad_byte(path)}; expected text in UTF-8"
        ) from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: the packed file is damaged: {error}") from error
    except OSError as error:
        if error.errno is not None:  # of the system; the others are those of the packers
            raise
        raise ValueError(f"{path}: the packed file is damaged: {error}") from error


def _packing(path: str) -> str | None:
    """How a file is packed. Its first bytes tell, not its name."""
    with open(path, "rb") as file:
        start = file.read(6)
    magic = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
    return next((name for sign, name in magic.items() if start.startswith(sign)), None)


def _open(path: str) -> IO[bytes]:
    """The bytes of a file, unpacked."""
    packing = _packing(path)
    if packing == "zstd":
        import pyarrow

        stream: Any = pyarrow.input_stream(path, compression="zstd")
        return io.BufferedReader(stream)
    open_ = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}.get(packing or "", open)
    return open_(path, "rb")


@contextmanager
def _text_of(path: str, newline: str | None = None) -> Iterator[io.TextIOWrapper]:
    with _open(path) as file, io.TextIOWrapper(file, encoding="utf-8", newline=newline) as text:
        yield text


def _first_bad_byte(path: str) -> int:
    """Where a file stops being UTF-8. No character contains a line break, so lines are enough."""
    place = 0
    with _open(path) as file:
        for line in file:
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return place + error.start
            place += len(line)
    return place


# JSON


def _rows_of_json(path: str) -> Iterator[Row]:
    with _text_of(path) as file:
        is_list = _is_list(file)
    with _text_of(path) as file:
        found = _elements(file.read(), path) if is_list else _lines(file, path)
        for number, value, line in found:
            if not isinstance(value, dict):
                place = Row(path, number, {}, line).where
                raise ValueError(f"{place}: a {type(value).__name__}; expected a JSON object")
            yield Row(path, number, value, line)


def _is_list(file: IO[str]) -> bool:
    """Whether the first character of a file that is not blank opens a list."""
    shown = ""
    while not shown and (text := file.read(4096)):
        shown = text.lstrip("\ufeff \t\r\n")
    return shown.startswith("[")


def _lines(file: IO[str], path: str) -> Iterator[tuple[int, Any, None]]:
    """The values of JSON lines with the number of their line."""
    for number, line in enumerate(file, start=1):
        text = line.lstrip("\ufeff") if number == 1 else line
        if not text.strip():
            continue
        with _named_error(f"{path}, row {number}"):
            value = json.loads(text.removesuffix("\n"), object_pairs_hook=_object)
        yield number, value, None


def _elements(text: str, path: str) -> Iterator[tuple[int, Any, int]]:
    """The elements of one JSON list, each with its number and the line on which it begins.

    Elements are parsed one by one, so that an error names its line, and rows before it are given.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    at = _next_sign(text, text.index("[") + 1)
    ended = text.startswith("]", at)
    number, line, counted = 0, 1, 0

    while not ended:
        number += 1
        line += text.count("\n", counted, at)
        counted = at
        with _named_error(f"{path}, row {number}, line {line}", path):
            value, end = decoder.raw_decode(text, at)
        yield number, value, line

        at = _next_sign(text, end)
        ended = text.startswith("]", at)
        if not ended:
            if not text.startswith(",", at):
                raise _broken(text, at, path, f"',' or ']' is missing after row {number}")
            at = _next_sign(text, at + 1)

    following = _next_sign(text, at + 1)
    if following < len(text):
        raise _broken(text, following, path, "the list has ended already")


def _next_sign(text: str, at: int) -> int:
    """The place of the next character, from `at` on, that JSON does not skip."""
    found = _NO_BLANK.search(text, at)
    return found.start() if found else len(text)


def _broken(text: str, at: int, path: str, message: str) -> ValueError:
    error = json.JSONDecodeError(message, text, at)
    return ValueError(
        f"{path}, line {error.lineno}: not JSON ({message}, at column {error.colno}); {_EXPECTED}"
    )


@contextmanager
def _named_error(where: str, list_path: str | None = None) -> Iterator[None]:
    """Errors of the JSON parser with their place; within a list that is the line of the error."""
    try:
        yield
    except json.JSONDecodeError as error:
        place = f"{list_path}, line {error.lineno}" if list_path else where
        raise ValueError(
            f"{place}: not JSON ({error.msg} at column {error.colno}); {_EXPECTED}"
        ) from error
    except RecursionError as error:
        raise ValueError(f"{where}: JSON nested too deep; expected a flat object") from error
    except ValueError as error:  # a field twice, a number of more digits than are read
        raise ValueError(f"{where}: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError where it has a field twice, since either could be meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(k for i, (k, _) in enumerate(pairs) if any(k == o for o, _ in pairs[:i]))
        raise ValueError(f"field {shortened(twice)!r} is there twice in one object")
    return found


# Tables


def _rows_of_csv(path: str, delimiter: str | None) -> Iterator[Row]:
    """The rows of a CSV file by the names in its first row.

    The delimiter is a comma or, where the first row has none, a semicolon or a tab.
    """
    with _text_of(path, newline="") as file:
        first = file.readline()
    if delimiter is None:
        delimiter = next((sign for sign in ",;\t" if sign in first), ",")

    csv.field_size_limit(LONGEST_CELL)
    with _text_of(path, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            names = [name.lstrip("\ufeff").strip() for name in next(reader, [])]
            if len(set(names)) < len(names):
                raise ValueError(f"{path}: a field is there twice in the first row: {names}")
            number = 0
            line = reader.line_num + 1  # on which the next row begins
            for cells in reader:
                if cells:
                    number += 1
                    yield Row(
                        path, number, _named_cells(names, cells, f"{path}, line {line}"), line
                    )
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def _named_cells(names: Sequence[str], cells: Sequence[str], where: str) -> dict[str, Any]:
    if len(cells) != len(names):
        raise ValueError(
            f"{where}: {len(cells)} fields; expected {len(names)} as in the first row "
            f"({shortened(', '.join(names))}): a field with a comma or a line break needs quotes"
        )
    return dict(zip(names, cells, strict=True))


def _rows_of_parquet(path: str) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        source: Any = path
        if _packing(path):  # the index of a Parquet file is at its end, so the whole is unpacked
            with _open(path) as file:
                source = pyarrow.BufferReader(file.read())
        with parquet.ParquetFile(source) as table:
            yield from _numbered(path, table.iter_batches(batch_size=BATCH))
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: not a Parquet file that can be read: {error}") from error


def _rows_of_arrow(path: str, is_file_format: bool) -> Iterator[Row]:
    import pyarrow
    from pyarrow import ipc

    try:
        with _open(path) as file:
            if is_file_format:
                reader = ipc.open_file(file)
                batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
            else:
                batches = iter(ipc.open_stream(file))
            yield from _numbered(path, batches)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: not an Arrow file that can be read: {error}") from error


def _numbered(path: str, batches: Iterable[Any]) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH):
            for values in batch.slice(start, BATCH).to_pylist():
                number += 1
                yield Row(path, number, values)


# ---- data sets --------------------------------------------------------------------------------


def _rows_of_saved_dataset(path: str) -> Iterator[Row]:
    from datasets import load_from_disk

    for number, values in enumerate(load_from_disk(path), start=1):
        yield Row(path, number, dict(values))


def hub_rows(hub: str, config: str | None, revision: str | None, split: str) -> Iterator[Row]:
    """The rows of one split of a data set on the hub.

    Raises FileNotFoundError where the data set cannot be reached, and ValueError for a
    configuration or a split that it does not have.
    """
    from datasets import load_dataset

    place = "/".join(part for part in (hub, config, split) if part)
    try:
        table = load_dataset(hub, config, split=split, revision=revision)
    except OSError as error:
        raise FileNotFoundError(
            f"the data set {place} could not be read from the hub: {error}; "
            "task.path=FILE reads a local file instead"
        ) from error
    except ValueError as error:
        raise ValueError(f"the data set {place} on the hub: {error}") from error

    for number, values in enumerate(table, start=1):
        yield Row(place, number, dict(values))
