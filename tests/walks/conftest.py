"""One finished smoke chain that all walks share."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from walk import Done, done_well, run

IN_WORK = shutil.ignore_patterns(".*")
"""What another worker's job may be writing into the shared store at the same moment."""


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> tuple[Path, Done]:
    """The store of a chain that was run once in this session, and what the command said.

    Under pytest-xdist the first worker runs it, and the others wait. Tests only read it, or write
    under other addresses; what is to be taken away is taken from a copy.
    """
    root = tmp_path_factory.getbasetemp()
    store = (root if worker_id == "master" else root.parent) / "smoke"
    known = store.with_suffix(".pickle")
    with FileLock(store.with_suffix(".lock")):
        if not known.is_file():
            known.write_bytes(pickle.dumps(done_well(run(store, cold=True))))
        return store, pickle.loads(known.read_bytes())


@pytest.fixture
def copied(shared: tuple[Path, Done], tmp_path: Path) -> Callable[..., Path]:
    """Makes a store that holds the shared chain's artifacts of some stages (all by default)."""

    def copy(*stages: str) -> Path:
        for folder in (shared[0] / "artifacts").iterdir():
            if not stages or folder.name in stages:
                shutil.copytree(folder, tmp_path / "artifacts" / folder.name, ignore=IN_WORK)
        return tmp_path

    return copy
