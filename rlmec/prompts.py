"""Prompts as token ids: one source for sampling, training, scoring and judging.

A template is text with fields in braces. Text fields are encoded together with the text around
them; id fields (an attempt) are put in as they are, so that what a model said is never decoded and
encoded again. A special token counts as one where a template or the chat form names it; in a field
its name is plain text. The chat form wraps the rendered template as one user turn. Examples before
a problem (few-shot) are the same template with their reference solution as its completion, in the
chat form turns of their own. In: templates, a tokenizer's functions. Out: ids.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from rlmec.records import Problem

_FIELD = re.compile(r"\{(question|solution|answer|attempt)\}")
_HOLE = "\ue000"
_BETWEEN_EXAMPLES = "\n\n"


@dataclass(frozen=True)
class Templates:
    """The texts: `policy` asks for a solution; `rewrite` and `rewrite_answer_only` ask the GRM for
    a correction, with the reference solution or with the answer alone; `locate` asks for the first
    wrong line and `located` (field {step}) is its answer. `chat` wraps them in the tokenizer's chat
    template."""

    policy: str
    rewrite: str
    rewrite_answer_only: str
    locate: str
    located: str
    chat: bool = False
    system: str | None = None

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Codec:
    """A tokenizer as functions and ids: `prefix_ids` is what every sequence starts with (a BOS
    token, or nothing), `end_ids` are all at which the model ends a completion (`eos_id` first),
    `digest` names the tokenizer, `chat` turns (system, user, earlier turns of user and assistant)
    into text. `encode` takes special tokens' texts (`marks`) as plain text, `encode_marked` as the
    tokens. Both, and `decode`, are for text that goes on after other text; `encode_start` is
    `encode_marked` at the start of a text, where some tokenizers put a space of their own.
    `encode_many` is `encode` for several texts."""

    encode: Callable[[str], list[int]]
    encode_marked: Callable[[str], list[int]]
    encode_start: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    prefix_ids: tuple[int, ...]
    eos_id: int
    end_ids: tuple[int, ...]
    pad_id: int
    digest: str
    vocabulary_size: int
    marks: tuple[str, ...] = ()
    chat: Callable[..., str] | None = None
    encode_many: Callable[[Sequence[str]], list[list[int]]] | None = None

    def completions(self, texts: Sequence[str]) -> list[list[int]]:
        """`completion` of each text; quicker for many where the tokenizer takes several."""
        several = self.encode_many or (lambda texts: [self.encode(text) for text in texts])
        return [[*ids, self.eos_id] for ids in several(texts)]

    def completion(self, text: str) -> list[int]:
        """Ids of a whole completion: the text and the end-of-sequence token."""
        return [*self.encode(text), self.eos_id]

    def text(self, completion_ids: Sequence[int]) -> str:
        """Text of a completion without its end token."""
        return self.decode(self.without_end(completion_ids))

    def without_end(self, completion_ids: Sequence[int]) -> list[int]:
        """A completion's ids without the end token, if it has one."""
        ids = list(completion_ids)
        return ids[:-1] if ids and ids[-1] in self.end_ids else ids

    def cut_at_marks(self, text: str) -> list[str]:
        """`text` in pieces, every second one the text of a special token."""
        if not self.marks:
            return [text]
        longest_first = sorted(self.marks, key=len, reverse=True)
        return re.split(f"({'|'.join(map(re.escape, longest_first))})", text)


def labelled(text: str) -> str:
    """Lines of a solution, numbered [0], [1], ... as the locating task refers to them."""
    return "\n".join(f"[{i}] {line}" for i, line in enumerate(text.split("\n")))


@dataclass(frozen=True)
class Prompts:
    """Templates bound to a tokenizer."""

    templates: Templates
    codec: Codec

    def __post_init__(self) -> None:
        if self.templates.chat and self.codec.chat is None:
            raise ValueError("prompt.chat is set, but the tokenizer has no chat template")

    def policy(self, problem: Problem, examples: Sequence[Problem] = ()) -> list[int]:
        """Prompt under which the policy is sampled, trained, scored and judged.

        `examples` stand before it with their reference solutions (for judging alone); one without a
        solution raises ValueError.
        """
        if bare := next((e for e in examples if e.solution is None), None):
            raise ValueError(f"example {bare.id!r} has no reference solution to show")
        shots = [({"question": e.question}, str(e.solution)) for e in examples]
        return self._ids(self.templates.policy, shots, question=problem.question)

    def rewrite(self, problem: Problem, attempt_ids: Sequence[int]) -> list[int]:
        """Prompt of the GRM: corrects `attempt_ids` (its end token is left out here)."""
        return self._rewrite(problem, self.codec.without_end(attempt_ids))

    def attempt_place(self, problem: Problem) -> int:
        """Where in `rewrite`'s prompt the attempt begins."""
        return self._rewrite(problem, [-1]).index(-1)

    def _rewrite(self, problem: Problem, ids: list[int]) -> list[int]:
        t = self.templates
        template = t.rewrite if problem.solution is not None else t.rewrite_answer_only
        return self._ids(template, attempt=ids, **_known(problem))

    def locate(self, problem: Problem, attempt: str) -> list[int]:
        """Prompt of the GRM that asks for the first wrong line of an attempt given as text."""
        known = _known(problem)
        solution = known.get("solution") or known["answer"]
        return self._ids(
            self.templates.locate,
            attempt=labelled(attempt),
            **(known | {"solution": labelled(solution)}),
        )

    def located(self, step: int) -> list[int]:
        """The locating task's answer as a completion."""
        return self.codec.completion(self.templates.located.replace("{step}", str(step)))

    def _ids(
        self,
        template: str,
        shots: Sequence[tuple[dict[str, str], str]] = (),
        /,
        **fields: str | list[int],
    ) -> list[int]:
        """Ids of a template with its `fields`, after `shots`: fields and completion of each."""
        holes: list[list[int]] = []
        turns = [
            (self._filled(template, shown, holes), self._filled("{attempt}", {"attempt": s}, holes))
            for shown, s in shots
        ]
        text = self._filled(template, fields, holes)
        if self.templates.chat and self.codec.chat is not None:
            text = self.codec.chat(self.templates.system, text, turns)
        else:
            text = _BETWEEN_EXAMPLES.join([*("".join(turn) for turn in turns), text])
        first, *others = text.split(_HOLE)
        ids = [] if self.templates.chat else list(self.codec.prefix_ids)
        ids += self.codec.encode_start(first) if first else []
        for hole, piece in zip(holes, others, strict=True):
            ids += [*hole, *(self.codec.encode_marked(piece) if piece else [])]
        return ids

    def _filled(
        self, template: str, fields: Mapping[str, str | list[int]], holes: list[list[int]]
    ) -> str:
        """A template's text; what has to stay ids is a mark in it, and goes to `holes` in order."""
        text = ""
        for i, part in enumerate(_FIELD.split(template)):
            for piece in self._pieces(fields[part]) if i % 2 else [part]:
                if isinstance(piece, str):
                    text += piece
                else:
                    text += _HOLE
                    holes.append(piece)
        return text

    def _pieces(self, field: str | list[int]) -> list[str | list[int]]:
        """A field as text and holes: ids are a hole, as is text that looks like a special token."""
        if not isinstance(field, str):
            return [field]
        pieces = self.codec.cut_at_marks(field.replace(_HOLE, ""))
        return [self.codec.encode(p) if i % 2 else p for i, p in enumerate(pieces)]


def _known(problem: Problem) -> dict[str, str]:
    known = {"question": problem.question, "answer": problem.answer}
    return known if problem.solution is None else known | {"solution": problem.solution}
