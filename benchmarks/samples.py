"""Pairs of token ids with the lengths of GSM8K: real attempts and corrections, or synthetic ones.

In: the folder in the environment variable RLMEC_DATA, or nothing. Out: `Sample`s.

The real samples are released solutions of language models to 660 questions
(`gsm8k/model_solutions_part.jsonl`). `teachers/reference` corrects each wrong solution; the pair is
kept if at most half of its tokens change, as in `conf/experiment/gsm8k_solutions.yaml`. The
tokenizer is trained on the same text (8192 tokens, up to 3 digits per token). A network with a
larger vocabulary uses only the lower part of it.

Without RLMEC_DATA, lengths are drawn from distributions fitted to the real pairs (`SYNTHETIC`) and
ids are random; the table says so.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from rlmec.prompts import Prompts, Templates

CHAT = Path(__file__).resolve().parents[1] / "conf" / "prompt" / "chat.yaml"
FILE = Path("gsm8k") / "model_solutions_part.jsonl"
VOCABULARY = 8192
FIRST_ID = 2  # 0 pads, 1 ends
END_ID = 1
MAX_EDIT_RATIO = 0.5
TEMPLATES: dict[str, Any] = {
    "policy": "{question}\n",
    "rewrite": "{question}\nSolution:\n{solution}\nAttempt:\n{attempt}\nCorrected:\n",
    "rewrite_answer_only": "{question}\nAnswer: {answer}\nAttempt:\n{attempt}\nCorrected:\n",
    "locate": "{attempt}\n",
    "located": "[{step}]",
}

SYNTHETIC = {
    "prompt": (4.01, 0.34),  # log-normal: mean and deviation of the log of the length
    "reference": (4.2, 0.4),
    "wrong": (4.25, 0.40),
    "right": (3.98, 0.42),
    "shared": (1.1, 1.7),  # beta: the share of a wrong attempt before its first edit
    "edited": 0.45,  # share of the tokens after the first edit that change
}


@dataclass(frozen=True)
class Sample:
    """An attempt and its target, which is its correction, or the attempt itself if it is right."""

    problem: int
    prompt: list[int]
    rewrite_prompt: list[int]
    attempt: list[int]
    target: list[int]

    @property
    def is_right(self) -> bool:
        return self.attempt == self.target

    @property
    def shared(self) -> int:
        """The number of tokens of attempt and target before the first difference."""
        same = takewhile(lambda ab: ab[0] == ab[1], zip(self.attempt, self.target, strict=False))
        return sum(1 for _ in same)


@dataclass(frozen=True)
class Samples:
    """Samples in file order, and the source they came from."""

    source: str
    all: list[Sample]

    @property
    def wrong(self) -> list[Sample]:
        return [s for s in self.all if not s.is_right]

    @property
    def right(self) -> list[Sample]:
        return [s for s in self.all if s.is_right]

    def lengths(self) -> dict[str, float]:
        """Return the mean numbers of tokens of the parts of wrong pairs and of right attempts."""
        wrong = self.wrong
        right = self.right
        return {
            "prompt": _mean(len(s.prompt) for s in wrong),
            "shared_prefix": _mean(s.shared for s in wrong),
            "wrong_tail": _mean(len(s.attempt) - s.shared for s in wrong),
            "corrected_tail": _mean(len(s.target) - s.shared for s in wrong),
            "right_completion": _mean(len(s.attempt) for s in right),
            "rewrite_prompt": _mean(len(s.rewrite_prompt) for s in wrong),
        }


def load_samples(seed: int, synthetic_count: int = 1200, model: Path | None = None) -> Samples:
    """Return real samples if RLMEC_DATA names their folder, otherwise synthetic ones from `seed`.

    Real samples have the tokens and chat prompts of the folder `model`, if one is given. Raises
    FileNotFoundError if RLMEC_DATA names a folder without the file.
    """
    folder = os.environ.get("RLMEC_DATA")
    if not folder:
        made = synthetic_samples(synthetic_count, seed)
        return Samples("synthetic lengths (RLMEC_DATA is not set)", made)
    path = Path(folder) / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"RLMEC_DATA is set, but its folder has no {FILE}; unset it for synthetic samples"
        )
    return Samples("GSM8K model solutions", real_samples(path, model))


def real_samples(path: Path, model: Path | None = None) -> list[Sample]:
    """Return every right attempt, and every wrong one with an accepted correction."""
    from rlmec.lm.generation import Completion
    from rlmec.method.acceptance import judge_proposal, proposal_ids
    from rlmec.pipeline.judges import Answer, attempts_of
    from rlmec.tasks.gsm8k import Gsm8kTask
    from rlmec.tasks.solution_files import SolutionFile
    from rlmec.teachers.reference import ReferenceTeacher

    task = Gsm8kTask(path=str(path))
    teacher = ReferenceTeacher()
    problems = [p for split in ("train", "dev", "test") for p in task.problems(split)]
    file = SolutionFile(str(path), problems, "*.solution", "*.is_correct", clean=task.clean)
    found = list(file)

    texts = [t for p in problems for t in (p.question, p.solution or "")]
    texts += [s.text for s in found]
    prompts = _own_prompts(texts) if model is None else _prompts_of(model)
    codes = prompts.codec

    numbers = {p.id: (i, p) for i, p in enumerate(problems)}
    out = []
    for solution in found:
        number, problem = numbers[solution.problem_id]
        completion = Completion(codes.completion(solution.text), [], False)
        prompt = prompts.policy(problem)
        (attempt,) = attempts_of(task, codes, [Answer(problem, 0, prompt, completion)])

        target: Sequence[int] = attempt.completion_ids
        if not attempt.is_right:
            text = teacher.correct(problem, attempt.text)
            ids = None
            if text is not None:
                ids = proposal_ids(attempt, text, codes.encode, codes.decode, codes.end_id)
            correction = judge_proposal(
                problem,
                attempt,
                ids,
                text,
                judge=task.judge,
                max_edit_ratio=MAX_EDIT_RATIO,
                source=teacher.name,
                tokenizer=codes.digest,
            )
            if not correction.accepted:
                continue
            target = correction.completion_ids

        rewrite = prompts.rewrite(problem, attempt.completion_ids)
        out.append(Sample(number, prompt, rewrite, attempt.completion_ids, list(target)))
    return out


def _own_prompts(texts: Sequence[str]) -> Prompts:
    """Plain prompts with a tokenizer that is trained on the texts."""
    from rlmec.lm.tokenizers import codec, train_tokenizer

    return Prompts(Templates(**TEMPLATES), codec(train_tokenizer(texts, VOCABULARY, digits=3)))


def _prompts_of(model: Path) -> Prompts:
    """The chat prompts of this project's configuration with the tokenizer of a model folder."""
    from rlmec.lm.loading import codec_of

    templates: Any = OmegaConf.to_container(OmegaConf.load(CHAT))
    return Prompts(Templates(**templates), codec_of(model, None, turns=True))


def synthetic_samples(count: int, seed: int) -> list[Sample]:
    """Return random ids with lengths from `SYNTHETIC`: four attempts per problem, half wrong."""
    draw = np.random.default_rng((seed, 7))

    def ids(name: str) -> list[int]:
        mean, deviation = SYNTHETIC[name]
        length = max(4, math.floor(draw.lognormal(mean, deviation)))
        return draw.integers(FIRST_ID, VOCABULARY, length).tolist()

    out = []
    for number in range(count):
        if number % 4 == 0:
            prompt = ids("prompt")
            reference = ids("reference")
        wrong = number % 2 == 0
        attempt = [*ids("wrong" if wrong else "right"), END_ID]
        target = _edited(attempt, draw) if wrong else attempt
        rewrite = [*prompt, *reference, *attempt]
        out.append(Sample(number // 4, prompt, rewrite, attempt, target))
    return out


def _edited(attempt: list[int], draw: np.random.Generator) -> list[int]:
    """The attempt with a share of its tokens after a first edit replaced."""
    first = min(int(draw.beta(*SYNTHETIC["shared"]) * len(attempt)), len(attempt) - 2)
    return replaced(attempt, edits(len(attempt) - 1, first, SYNTHETIC["edited"], draw), draw)


def edits(end: int, first: int, share: float, draw: np.random.Generator) -> np.ndarray:
    """Return positions to edit: `first`, and later ones below `end` with probability `share`."""
    chosen = draw.random(end) < share
    chosen[:first] = False
    chosen[first] = True
    return np.flatnonzero(chosen)


def replaced(ids: Sequence[int], positions: Sequence[int] | np.ndarray, draw: np.random.Generator):
    """Return `ids` with another random token at each of `positions`."""
    out = list(ids)
    for at in positions:
        other = int(draw.integers(FIRST_ID, VOCABULARY - 1))
        out[at] = other if other != out[at] else VOCABULARY - 1
    return out


def _mean(values) -> float:
    found = list(values)
    return round(sum(found) / len(found), 1) if found else 0.0
