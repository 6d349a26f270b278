"""The verifier's child process: compares answers by math-verify until its input ends.

In: lines of JSON on the standard input, a gold answer and an answer or null each; out: one word a
line on the standard output. Started as a script with three numbers: processor seconds after which a
comparison is given up, processor seconds after which the kernel ends this process, and bytes of
address space. Nothing of this project is imported, so that a child takes half a second to start.

Only math-verify's reader of LaTeX is used, which has a grammar. Its reader of plain expressions
evaluates them as Python; answers without dollar signs are put between some instead. Where sympy or
math-verify itself swallows a lack of memory, the verdict is what it then says.
"""

import json
import logging
import os
import resource
import signal
import sys
from itertools import product
from types import FrameType
from typing import Any

MOST_GOLDS = 4096


class OutOfTime(BaseException):
    """Raised by the soft alarm, past every `except Exception` of the libraries."""


class Comparer:
    """Compares answers; `golds` keeps what was parsed, as one gold answer meets many answers."""

    def __init__(self, seconds: float) -> None:
        from math_verify import LatexExtractionConfig, parse, verify

        self.seconds, self.armed = seconds, False
        self.config, self._parse, self._verify = [LatexExtractionConfig()], parse, verify
        self.golds: dict[str, list[Any]] = {}
        signal.signal(signal.SIGPROF, self._alarm)

    def _alarm(self, number: int, frame: FrameType | None) -> None:
        if self.armed:
            raise OutOfTime

    def __call__(self, gold: str, answer: str | None) -> str:
        """The word for a pair: right, wrong, unparsable (the gold answer), timeout or memory; with
        no answer readable or unparsable."""
        try:
            self.armed = True
            # again and again: a library may swallow the first
            signal.setitimer(signal.ITIMER_PROF, self.seconds, 0.25)
            word = self._word(gold, answer)
            self.armed = False
        except OutOfTime:
            word = "timeout"
        except MemoryError:
            word = "memory"
        finally:
            self.armed = False
            signal.setitimer(signal.ITIMER_PROF, 0.0)
        return word

    def warm_up(self) -> None:
        """Does once, before the clock runs, what the libraries put off until they are first used:
        the grammar's tables, the simplifier."""
        self._word(r"\frac{x}{2}+\text{one}", r"\sqrt{2}x")

    def _word(self, gold: str, answer: str | None) -> str:
        if gold not in self.golds:
            if len(self.golds) >= MOST_GOLDS:
                self.golds.clear()
            self.golds[gold] = self.parsed(gold)
        if not self.golds[gold]:
            return "unparsable"
        if answer is None:
            return "readable"
        pairs = product(self.golds[gold], self.parsed(answer))
        return "right" if any(self._equal(*pair) for pair in pairs) else "wrong"

    def _equal(self, gold: Any, answer: Any) -> bool:
        try:
            return self._verify(gold, answer, timeout_seconds=0, raise_on_error=True)
        except MemoryError:
            raise
        except Exception:  # what cannot be compared is not equal: math-verify's own rule
            return False

    def parsed(self, text: str) -> list[Any]:
        """What math-verify reads: a list of expressions, or texts where it knows no better."""
        shown = text if "$" in text else f"${text}$"
        return self._parse(shown, extraction_config=self.config, parsing_timeout=0)


def main(soft: float, hard: float, memory: int) -> None:
    """Answers requests until the input ends; dies of SIGVTALRM where a comparison takes too long
    without ever coming back to Python."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # meant for the run, which may still want a verdict
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    logging.disable(logging.CRITICAL)
    os.environ["SYMPY_GROUND_TYPES"] = "python"  # gmpy2 does not look up from its work
    try:
        compare = Comparer(soft)
        compare.warm_up()
    except ImportError as error:
        print(f"error: {error}", file=replies)
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    print("ready", file=replies)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        signal.setitimer(signal.ITIMER_VIRTUAL, hard)
        word = compare(gold, answer)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        print(word, file=replies)


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
