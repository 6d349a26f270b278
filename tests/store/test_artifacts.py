"""The store: artifacts appear whole, have one maker at a time, and have addresses by content."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import time

import pytest

from rlmec.runtime.sweeps import write_sweep_table
from rlmec.settings import sources
from rlmec.store import artifacts, atomic, fingerprint
from rlmec.store.artifacts import (
    ArtifactError,
    ArtifactStore,
    environment,
    environment_differences,
)
from rlmec.store.locks import LockError, Uses, is_locked, lock_alone


def make(store, stage="sample", fp="a" * 20, text="rows"):
    work = store.work(stage, fp)
    (work / "parts").mkdir(parents=True)
    (work / "table.txt").write_text(text)
    return work


def test_commit_makes_the_folder_final_in_one_step(tmp_path):
    store = ArtifactStore(tmp_path / "deep" / "store")
    assert store.find("sample", "a" * 20) is None
    work = make(store)
    done = store.commit("sample", "a" * 20, {"rows": 3, "metrics": {"x": 0.5}}, drop=["parts"])
    found = store.find("sample", "a" * 20)
    assert found == done
    assert (found.rows, found.metrics) == (3, {"x": 0.5})
    assert found.file("table.txt").read_text() == "rows"
    assert not work.exists()
    assert sorted(p.name for p in found.path.iterdir()) == ["manifest.json", "table.txt"]
    with pytest.raises(ArtifactError, match="model"):
        found.file("model")


@pytest.mark.parametrize("at", ["sync_below", "atomic_write_json", "rename"])
def test_a_kill_before_the_rename_leaves_nothing_final(tmp_path, monkeypatch, at):
    store = ArtifactStore(tmp_path)
    make(store)

    class Kill(BaseException):
        pass

    def kill(*_, **__):
        raise Kill

    with monkeypatch.context() as patch:
        patch.setattr(os if at == "rename" else artifacts, at, kill)
        with pytest.raises(Kill):
            store.commit("sample", "a" * 20, {"rows": 1})
    assert store.find("sample", "a" * 20) is None
    assert (store.work("sample", "a" * 20) / "table.txt").exists()
    assert store.commit("sample", "a" * 20, {"rows": 2}).rows == 2


def test_everything_is_on_disk_before_the_rename(tmp_path, monkeypatch):
    store = ArtifactStore(tmp_path)
    work = make(store)
    events = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(
        os, "fsync", lambda fd: (events.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))
    )
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append("rename"), rename(a, b)))
    store.commit("sample", "a" * 20, {})
    at = events.index("rename")
    assert {str(work / "table.txt"), str(work)} <= set(events[:at])
    assert any("manifest" in e for e in events[:at])
    assert events[at - 1] == str(work)  # the folder's names, with the manifest among them
    assert events[at + 1] == str(work.parent)


def test_a_second_commit_is_refused(tmp_path):
    store = ArtifactStore(tmp_path)
    make(store)
    store.commit("sample", "a" * 20, {"rows": 1})
    make(store)
    with pytest.raises(ArtifactError, match="a" * 20):
        store.commit("sample", "a" * 20, {"rows": 2})
    assert store.find("sample", "a" * 20).rows == 1


DEEP = '{"a":' * 100_000
NO_METRICS = json.dumps({"stage": "sample", "fingerprint": "a" * 20, "metrics": [1]})


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", '{"stage": "grm", "fingerprint": "b"}', DEEP, NO_METRICS]
)
def test_a_folder_that_no_commit_made_is_named(tmp_path, text):
    folder = tmp_path / "sample" / ("a" * 20)
    folder.mkdir(parents=True)
    if text is not None:
        (folder / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match="a" * 20):
        ArtifactStore(tmp_path).find("sample", "a" * 20)


HOLDER = """
import sys, time
from rlmec.store.artifacts import ArtifactStore
with ArtifactStore(sys.argv[1]).lock("grm", "f"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_makes_others_wait_and_dies_with_its_process(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        waits = []

        def on_wait(path):
            waits.append(path)
            holder.kill()  # kill -9: no clean-up of its own

        start = time.monotonic()
        with ArtifactStore(tmp_path).lock("grm", "f", on_wait):
            assert holder.wait() == -9
        assert time.monotonic() - start < 20
        assert [p.name for p in waits] == [".lock-f"]
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with ArtifactStore(tmp_path).lock("grm", "f", lambda _: pytest.fail("nobody holds it")):
        pass


BASE = {
    "stage": "grm",
    "version": 1,
    "settings": {"grm": {"lr": 1.0, "steps": 5, "tags": ["a"], "x": None}},
    "parents": {"sample": "s1", "teach": "t1"},
    "inputs": {"data.jsonl": "d1"},
    "sources": {"rlmec.method.rewards.f": "c1"},
}


def test_a_fingerprint_does_not_depend_on_the_order_of_keys():
    first = fingerprint.fingerprint(**BASE)
    turned = {k: dict(reversed(v.items())) if isinstance(v, dict) else v for k, v in BASE.items()}
    assert first == fingerprint.fingerprint(**turned)
    assert len(first) == 20
    assert set(first) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "score"},
        {"version": 2},
        {"settings": {"grm": {"lr": 1, "steps": 5, "tags": ["a"], "x": None}}},
        {"settings": {"grm": {"lr": 1.0, "steps": 5, "tags": ["a"], "x": False}}},
        {"settings": {"grm": {"lr": 1.0, "steps": 5, "tags": ["a"]}}},
        {"settings": {"grm": {"lr": 1.0, "steps": "5", "tags": ["a"], "x": None}}},
        {"parents": {"sample": "s2", "teach": "t1"}},
        {"parents": {"sample": "t1", "teach": "s1"}},
        {"inputs": {"data.jsonl": "d2"}},
        {"inputs": {}, "sources": {"data.jsonl": "d1", "rlmec.method.rewards.f": "c1"}},
        {"sources": {"rlmec.method.rewards.f": "c2"}},
    ],
    ids=str,
)
def test_a_fingerprint_changes_with_everything_in_it(change):
    assert fingerprint.fingerprint(**(BASE | change)) != fingerprint.fingerprint(**BASE)


def test_a_fingerprint_of_something_that_is_no_plain_value_is_refused():
    with pytest.raises(TypeError):
        fingerprint.fingerprint(**(BASE | {"settings": {"path": object()}}))


def test_digests_follow_the_content(tmp_path):
    model = tmp_path / "model"
    (model / "sub").mkdir(parents=True)
    (model / "a.bin").write_bytes(b"1")
    (model / "sub" / "b.bin").write_bytes(b"2")
    first = fingerprint.directory_digest(model)
    (model / ".cache").mkdir()
    (model / ".cache" / "lock").write_text("hidden")
    assert fingerprint.directory_digest(model) == first
    (model / "a.bin").write_bytes(b"2")
    (model / "sub" / "b.bin").write_bytes(b"1")
    swapped = fingerprint.directory_digest(model)
    assert swapped != first
    (model / "a.bin").rename(model / "c.bin")
    assert fingerprint.directory_digest(model) not in (first, swapped)
    with pytest.raises(FileNotFoundError, match="no-model"):
        fingerprint.directory_digest(tmp_path / "no-model")


def test_a_file_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_text("one")
    first = fingerprint.file_digest(path)
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
        assert fingerprint.file_digest(path) == first
    path.write_text("other")
    assert fingerprint.file_digest(path) != first


def test_the_source_behind_a_target_counts_without_its_docstrings(tmp_path, monkeypatch):
    package = tmp_path / "userpkg_source"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('never imported')")
    module = package / "rewards.py"
    monkeypatch.syspath_prepend(tmp_path)

    def digest(text):
        module.write_text(text)
        return sources.source_digest("userpkg_source.rewards.rule")

    first = digest('"""Doc."""\ndef rule(x):\n    """Says."""\n    return x + 1\n')
    assert digest("# note\ndef rule( x ):\n\n    'Other.'\n    return (x + 1)\n") == first
    assert digest("def rule(x):\n    return x + 2\n") != first
    with pytest.raises(ModuleNotFoundError, match="nowhere_pkg"):
        sources.source_digest("nowhere_pkg.mod.f")
    assert sources.source_digest("torch.optim.AdamW").startswith("torch.optim.AdamW@2")
    assert len(sources.source_digest("rlmec.records.Problem")) == 64


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    atomic.atomic_write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        atomic.atomic_write_json(path, {"a": object()})

    def full(fd):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            atomic.atomic_write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_folder_stays_or_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "out"

    def write(text, fail=False, **how):
        with atomic.atomic_folder(target, **how) as folder:
            (folder / "x").write_text(text)
            if fail:
                raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write("one", fail=True)
    assert list(tmp_path.iterdir()) == []
    write("one")
    write("two")
    assert (target / "x").read_text() == "one"
    with pytest.raises(OSError, match="no space"):
        write("three", fail=True, replace=True)
    assert (target / "x").read_text() == "one"
    write("four", replace=True)
    assert (target / "x").read_text() == "four"
    assert list(tmp_path.iterdir()) == [target]


def test_differences_of_environments_are_named():
    old = environment(world_size=1, threads=2)
    new = json.loads(json.dumps(old)) | {"world_size": 2}
    assert {"python", "torch", "lightning", "numpy"} <= set(old["libraries"])
    new["libraries"]["torch"] = "9.9"
    torch = old["libraries"]["torch"]
    expected = [f"torch: {torch} -> 9.9", "world_size: 1 -> 2"]
    assert environment_differences(old, new) == expected
    libraries = old["libraries"], new["libraries"]
    assert environment_differences(*libraries) == expected[:1]
    assert environment_differences(old, old) == []


def test_a_commit_leaves_out_what_killed_processes_have_left(tmp_path):
    store = ArtifactStore(tmp_path)
    work = make(store)
    (work / "model").mkdir()
    for place in (work, work / "model"):
        (place / ".table.txt.0123abcd.tmp").touch()
        (place / ".tmp-model-17").mkdir()
        (place / ".tmp-model-17" / "weights").touch()
        (place / ".old-model-17").mkdir()
    (work / ".gitattributes").touch()
    (work / "notes.tmp").touch()
    done = store.commit("sample", "a" * 20, {}, drop=["parts"])
    assert sorted(done.manifest["files"]) == [".gitattributes", "notes.tmp", "table.txt"]
    left = {path.name for path in done.path.rglob("*")}
    assert left == {".gitattributes", "notes.tmp", "table.txt", "model", "manifest.json"}


# --- file systems ---


def hold(store):
    with store.lock("grm", "f" * 20):
        pass


def sign(store):
    uses = Uses(store.root)
    uses.hold("grm", "f" * 20)
    uses.sign("grm", "f" * 20)


LOCKERS = {
    ".lock-" + "f" * 20: hold,
    ".use-" + "f" * 20: lambda store: is_locked(store.root / "grm" / (".use-" + "f" * 20)),
    ".use-": lambda store: lock_alone(store.root / "grm" / (".use-" + "f" * 20)).__enter__(),
    ".results.lock": lambda store: write_sweep_table(store.root),
}
"""Everything that locks a file, by a part of the file's name."""


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
@pytest.mark.parametrize("name", LOCKERS)
def test_a_file_system_without_locks_is_named_with_what_to_do(name, number, tmp_path, monkeypatch):
    (tmp_path / "grm").mkdir()
    (tmp_path / "grm" / (".use-" + "f" * 20)).touch()

    def flock(handle, kind):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(LockError) as caught:
        LOCKERS[name](ArtifactStore(tmp_path))
    for part in (str(tmp_path), name, os.strerror(number), "paths.artifacts"):
        assert part in str(caught.value)


def test_an_error_of_a_write_names_the_file(tmp_path, monkeypatch):
    """The operating system names a file that cannot be opened, and none that cannot be written."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match=r"space.*grm/\.use-ffff"):
            sign(ArtifactStore(tmp_path))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"space.*summary\.json"):
        atomic.atomic_write_json(tmp_path / "summary.json", {})
    assert [path.name for path in tmp_path.glob("*.json")] == []
