"""Rows of every format: the same rows from each, and damage named with its file and line."""

import bz2
import csv
import gzip
import json
import lzma
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from rlmec.tasks.rows import Row, content_files, files_of, iter_rows, read_rows

ROWS = [{"question": f'q{n}, "é"\n?', "answer": str(n)} for n in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def values(path) -> list[dict]:
    return [row.values for row in iter_rows(str(path))]


def written_csv(path: Path, delimiter: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["question", "answer"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def test_every_format_gives_the_same_rows(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    (tmp_path / "a.jsonl").write_text(LINES)
    (tmp_path / "a.json").write_text(json.dumps(ROWS, indent=1))
    (tmp_path / "no_ending").write_text(LINES)
    written_csv(tmp_path / "a.csv", ",")
    written_csv(tmp_path / "semicolons.csv", ";")
    written_csv(tmp_path / "a.tsv", "\t")
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    with (
        pa.OSFile(str(tmp_path / "file.arrow"), "wb") as out,
        pa.ipc.new_file(out, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=2)
    with (
        pa.OSFile(str(tmp_path / "stream.arrow"), "wb") as out,
        pa.ipc.new_stream(out, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=2)
    for path in list(tmp_path.iterdir()):
        assert values(path) == ROWS, path
        assert [row.number for row in iter_rows(str(path))] == [1, 2, 3, 4, 5]
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert values(tmp_path / "saved") == ROWS


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a.json"])
def test_every_packing_gives_the_same_rows(tmp_path, name):
    plain = tmp_path / name
    if name.endswith("csv"):
        written_csv(plain, ",")
    elif name.endswith("parquet"):
        parquet.write_table(pa.Table.from_pylist(ROWS), plain)
    else:
        plain.write_text(LINES if name.endswith("l") else json.dumps(ROWS))
    data = plain.read_bytes()
    packed = {
        "gz": gzip.compress(data),
        "bz2": bz2.compress(data),
        "xz": lzma.compress(data),
        "zst": pa.compress(data, "zstd", asbytes=True),
    }
    for ending, content in packed.items():
        path = tmp_path / f"{name}.{ending}"
        path.write_bytes(content)
        assert values(path) == ROWS, path
    (tmp_path / name).write_bytes(packed["gz"])  # the bytes tell the packing, not the name
    assert values(tmp_path / name) == ROWS


def test_folders_patterns_and_lists(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "in/c.jsonl.gz", ".hidden.jsonl", "README.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        text = json.dumps({"name": name}).encode()
        path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    root = str(tmp_path)
    assert [row.values["name"] for row in iter_rows(root)] == [
        "a.jsonl",
        "b.jsonl",
        "in/c.jsonl.gz",
    ]
    assert files_of(f"{root}/*.jsonl") == [f"{root}/a.jsonl", f"{root}/b.jsonl"]
    assert files_of(f"{root}/**/c*") == [f"{root}/in/c.jsonl.gz"]
    assert files_of([f"{root}/b.jsonl", f"{root}/a.jsonl"])[0].endswith("b.jsonl")
    assert content_files(root) == files_of(root)
    assert content_files(f"{root}/none.jsonl") == content_files(None) == []
    for path in (f"{root}/none.jsonl", f"{root}/none*.jsonl", str(tmp_path / "empty")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(FileNotFoundError, match=r"none|empty"):
            read_rows(path)


def test_dotted_fields():
    row = Row("f", 1, {"a": {"b": 1, "c": [{"d": "x"}]}, "a.b": "own", "n": None, "s": " "})
    assert row.text("a.b") == "own"
    assert row.text("a.c.0.d") == "x"
    assert [row.text_or_none(field) for field in ("n", "s", "a.z", "a.c.0.d")] == [
        *(None, None, None, "x")
    ]
    with pytest.raises(ValueError, match=r"f, row 1: no field 'a\.c\.1'.*found a\.b, a\.c, "):
        row.text("a.c.1")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '[\n{"a": 1},\n{"a": 2}\n{"a": 3}]', r"a\.json, line 4: .*row 2"),
        ("a.json", '[\n{"a": 1},\n{"a": 2 "b"}]', r"a\.json, line 3: not JSON"),
        ("a.json", '[{"a": 1},\n]', r"a\.json, line 2: not JSON"),
        ("a.json", '[{"a": 1}\n', r"a\.json, line 2: not JSON"),
        ("a.json", '[{"a": 1}]\n\n]', r"a\.json, line 3: not JSON"),
        ("a.json", '[\n\n{"a": 1, "a": 2}]', r"row 1, line 3: field 'a' is there twice"),
        ("a.json", '[{"a": 1},\n\n7]', r"row 2, line 3: a int; expected"),
        ("a.csv", 'a,b\n1,2\n\n"x\ny",2\n1,2,3\n', r"line 6: 3 fields; expected 2"),
        ("a.csv", "a,a\n1,2\n", r"a\.csv: a field is there twice"),
        ("a.csv", 'a,b\n"x"y,2\n', r"a\.csv, line 2: not CSV"),
        ("a.jsonl.gz", gzip.compress(LINES.encode() * 99)[:-30], r"a\.jsonl\.gz: .*damaged"),
        ("a.jsonl.xz", lzma.compress(LINES.encode() * 99)[:-30], r"a\.jsonl\.xz: .*damaged"),
        (
            "a.zst",
            pa.compress(LINES.encode() * 99, "zstd", asbytes=True)[:-9],
            r"a\.zst: .*damaged",
        ),
        ("a.parquet", b"PAR1 and no more", r"a\.parquet: "),
        ("a.arrow", b"ARROW1 and no more", r"a\.arrow: "),
        ("a.xlsx", b"PK\x03\x04 and more", r"a\.xlsx: a zip archive"),
        ("a.csv", b"a,b\n1,\xff\n", r"a\.csv: not UTF-8 at byte 6"),
    ],
)
def test_damage_is_named_with_file_and_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_rows(str(path))


def test_rows_of_a_list_before_the_broken_one_are_given(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1},\n {"a": 2},\n {oops}]')
    rows = iter_rows(str(path))
    assert [(row.number, row.line) for row in (next(rows), next(rows))] == [(1, 1), (2, 2)]
    with pytest.raises(ValueError, match="line 3"):
        next(rows)
    for text in ("[]", " [ ] ", "\ufeff[]\n", ""):
        path.write_text(text)
        assert read_rows(str(path)) == []
