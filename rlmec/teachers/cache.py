"""Answers of a server on disk, one file a question, so that none is asked twice.

In: what shapes an answer, as plain values. Out: the answer, if it was given before. A file is
written whole or not at all (temporary name, fsync, rename) before the answer is used, and holds the
question, the answer and its tokens; never a key.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlmec.store.atomic import atomic_write_json


@dataclass(frozen=True)
class Answer:
    """What a model said and the tokens that were counted; `ending` says how it ended: "stop",
    "length" (cut at the limit) or "refusal"."""

    text: str
    input_tokens: int
    output_tokens: int
    ending: str = "stop"


def question_digest(question: Mapping[str, Any]) -> str:
    """sha256 of everything that shapes an answer."""
    text = json.dumps(question, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class AnswerCache:
    """Answers below `folder`, which is made when first written to; without a folder none is kept
    beyond the process."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: dict[str, Answer] = {}
        self._guard = threading.Lock()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    @contextlib.contextmanager
    def asking(self, digest: str) -> Iterator[None]:
        """Held while a question is looked up and asked, so that two threads do not ask it both."""
        with self._guard:
            lock = self._locks[digest]
        with lock:
            yield

    def find(self, digest: str) -> Answer | None:
        """The answer given before, or None. A file that cannot be read is a ValueError naming
        it."""
        if self._folder is None:
            return self._memory.get(digest)
        path = self._path(self._folder, digest)
        try:
            return Answer(**json.loads(path.read_text(encoding="utf-8"))["answer"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path} is no answer of a teacher ({type(error).__name__}); remove it to have its "
                f"question asked again"
            ) from error

    def keep(self, digest: str, question: Mapping[str, Any], answer: Answer) -> None:
        """Keeps an answer; it is on disk when this returns."""
        if self._folder is None:
            self._memory[digest] = answer
            return
        path = self._path(self._folder, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_json(path, {"question": dict(question), "answer": asdict(answer)})

    @staticmethod
    def _path(folder: Path, digest: str) -> Path:
        return folder / digest[:2] / f"{digest}.json"
