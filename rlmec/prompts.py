"""Prompts as token ids, for sampling, training, scoring and judging alike.

In: templates, and a tokenizer as functions. Out: token ids. Pure.

A template is text with fields in braces: {question}. `TEMPLATE_FIELDS` names the fields of each
template. Braces around anything but an identifier are plain text, as in LaTeX. Doubled braces
around an identifier become single ones: {{answer}} is the text {answer}.

A field of text is encoded together with the text around it. A field of ids (an attempt) is inserted
as it is, so that the output of a model is never decoded and encoded again. The text of a special
token is that token in a template and in the chat form, and plain text in a field.

The chat form wraps the rendered template as one user turn. Few-shot examples are the same template
with their reference solutions as completions; in the chat form they are turns of their own.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # the settings import this module, and records would bring numpy along
    from rlmec.records import Problem

DEFAULT_DATE = "2024-07-26"
"""The date that chat templates show unless another one is given (ISO)."""

_FIELD = re.compile(r"\{\{(?P<plain>[^\W\d]\w*)\}\}|\{(?P<field>[^\W\d]\w*)\}")
# A backslash and the letter n, unless a LaTeX command begins with them.
_WRITTEN_BREAK = re.compile(
    r"\\n(?!(?:abla|atural|e|earrow|eg|eq|ewline|exists|geq|i|leq|mid|oindent|ot|otin|parallel|u|"
    r"warrow)(?![a-z]))"
)
_HOLE = "\ue000"  # a private-use character, which is removed from fields of text
_BETWEEN_EXAMPLES = "\n\n"
_NO_ID = -1


class Fields(NamedTuple):
    """The fields that a template must have, and those that it may have besides."""

    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()


TEMPLATE_FIELDS = {
    "policy": Fields(("question",)),
    "rewrite": Fields(("question", "attempt"), ("solution", "answer")),
    "rewrite_answer_only": Fields(("question", "attempt"), ("answer",)),
    "locate": Fields(("question", "attempt"), ("solution", "answer")),
    "located": Fields(("step",)),
}
"""The fields of each template of `Templates`."""

# Names in a chat template that have another meaning than a template argument, and the parameters
# of transformers' `apply_chat_template`.
TAKEN_ARGS = {"messages", "strftime_now", "raise_exception", "namespace", "rlmec_date"}
TAKEN_ARGS |= {"conversation", "tools", "documents", "chat_template", "add_generation_prompt"}
TAKEN_ARGS |= {"continue_final_message", "tokenize", "sanitize_control_tokens", "padding"}
TAKEN_ARGS |= {"truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs"}
TAKEN_ARGS |= {"return_assistant_tokens_mask"}


def pieces_of(template: str) -> Iterator[tuple[str, str]]:
    """The literal texts of a template, each with the field that follows it ("" after the last)."""
    text = ""
    end = 0
    for found in _FIELD.finditer(template):
        text += template[end : found.start()]
        end = found.end()
        if found["field"]:
            yield text, found["field"]
            text = ""
        else:
            text += "{" + found["plain"] + "}"
    yield text + template[end:], ""


def filled(template: str, fields: Mapping[str, str]) -> str:
    """A template as text, with its fields replaced by `fields`. Raises KeyError for another one."""
    return "".join(text + (fields[name] if name else "") for text, name in pieces_of(template))


def check_text(name: str, text: str) -> None:
    """Raise ValueError if a text holds a backslash and an n where a line break was meant."""
    if _WRITTEN_BREAK.search(text):
        raise ValueError(
            f"{name} holds a backslash and the letter n, which are no line break: write it between "
            """double quotes in a YAML file, or in the shell as $'KEY="first line\\nsecond line"'"""
        )


def check_template(name: str, template: str, fields: Fields) -> None:
    """Raise ValueError if a template has an unknown field, lacks one, or fails `check_text`."""
    check_text(name, template)
    found = [field for _, field in pieces_of(template) if field]
    known = [*fields.needed, *fields.optional]

    for field in found:
        if field not in known:
            near = difflib.get_close_matches(field, known, 1, 0.5)
            shown = near or known
            raise ValueError(
                f"{name} has the field {{{field}}}, which it cannot show; "
                f"{'the nearest is' if near else 'there is'} {', '.join(f'{{{f}}}' for f in shown)}"
                f" (write {{{{{field}}}}} for the text {{{field}}} itself)"
            )
    for field in fields.needed:
        if field not in found:
            raise ValueError(f"{name} lacks the field {{{field}}}: {template[:80]!r}")


def check_template_args(template_args: Mapping[str, Any] | None) -> None:
    """Raise ValueError if a name of `template_args` has another meaning for a chat template."""
    for name in template_args or {}:
        if name in TAKEN_ARGS or not str(name).isidentifier():
            raise ValueError(
                f"template_args.{name}: a chat template cannot get an argument of this name"
            )


@dataclass(frozen=True)
class Templates:
    """The texts of all prompts.

    `policy` asks for a solution. `rewrite` asks the GRM for a correction and shows the reference
    solution; `rewrite_answer_only` shows the answer instead, for problems without a solution.
    `locate` asks for the first wrong line, and `located` is the answer to that. `chat` wraps the
    prompts in the tokenizer's chat template, with the system message `system`. The chat template
    gets `date` (ISO) for the day on which it is rendered, and `template_args` as variables.
    """

    policy: str
    rewrite: str
    rewrite_answer_only: str
    locate: str
    located: str
    chat: bool = False
    system: str | None = None
    date: str = DEFAULT_DATE
    template_args: Mapping[str, Any] | None = None

    @property
    def digest(self) -> str:
        """A hash of all texts and settings."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Codec:
    """A tokenizer as functions and ids.

    - `encode` reads the texts of special tokens (`marks`) as plain text, `encode_marked` as the
      tokens. Both, and `decode`, are for text that continues other text.
    - `encode_start` is `encode_marked` for the start of a text, where some tokenizers add a space.
    - `encode_many` is `encode` for several texts at once, if the tokenizer can do that.
    - `chat` turns (system, user, earlier turns of user and assistant) into text; its keywords are
      `date` and `template_args` of `Templates`.
    - `prefix_ids` begin every sequence: a BOS token or nothing.
    - `end_ids` are all ids that end a completion. `end_id`, the first of them, ends what is written
      here: references, corrections, the answers that the GRM learns.
    - `digest` identifies the tokenizer.
    """

    encode: Callable[[str], list[int]]
    encode_marked: Callable[[str], list[int]]
    encode_start: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    prefix_ids: tuple[int, ...]
    end_id: int
    end_ids: tuple[int, ...]
    pad_id: int
    digest: str
    vocabulary_size: int
    marks: tuple[str, ...] = ()
    chat: Callable[..., str] | None = None
    encode_many: Callable[[Sequence[str]], list[list[int]]] | None = None

    def completions(self, texts: Sequence[str]) -> list[list[int]]:
        """`completion` of each text, encoded together if the tokenizer can do that."""
        if self.encode_many is None:
            return [self.completion(text) for text in texts]
        return [[*ids, self.end_id] for ids in self.encode_many(texts)]

    def completion(self, text: str, attempt_ids: Sequence[int] = ()) -> list[int]:
        """Ids of a whole completion: those of the text, then the end token.

        A correction of `attempt_ids` ends as that attempt does.
        """
        return [*self.encode(text), self.end_of(attempt_ids)]

    def end_of(self, completion_ids: Sequence[int]) -> int:
        """The end token of a completion; `end_id` if it has none."""
        has_end = len(completion_ids) and completion_ids[-1] in self.end_ids
        return completion_ids[-1] if has_end else self.end_id

    def with_end_of(self, completion_ids: Sequence[int], attempt_ids: Sequence[int]) -> list[int]:
        """A completion whose end token, if it has one, is that of an attempt.

        All end tokens mean the same, so a correction must not differ from its attempt in them.
        """
        ids = self.without_end(completion_ids)
        has_end = len(ids) < len(completion_ids)
        return [*ids, self.end_of(attempt_ids)] if has_end else ids

    def as_written(self, completion_ids: Sequence[int]) -> list[int]:
        """A completion whose end token, if it has one, is `end_id`."""
        return self.with_end_of(completion_ids, ())

    def text(self, completion_ids: Sequence[int]) -> str:
        """The text of a completion, without its end token."""
        return self.decode(self.without_end(completion_ids))

    def without_end(self, completion_ids: Sequence[int]) -> list[int]:
        """The ids of a completion, without its end token if it has one."""
        ids = list(completion_ids)
        return ids[:-1] if ids and ids[-1] in self.end_ids else ids

    def cut_at_marks(self, text: str) -> list[str]:
        """`text` in pieces; every second piece is the text of a special token."""
        if not self.marks:
            return [text]
        # The longest first, so that a mark that begins with another one is found whole.
        longest_first = sorted(self.marks, key=len, reverse=True)
        return re.split(f"({'|'.join(map(re.escape, longest_first))})", text)


def labelled(text: str) -> str:
    """The lines of a solution, each with its number: [0], [1], ... (for the locating task)."""
    return "\n".join(f"[{i}] {line}" for i, line in enumerate(text.split("\n")))


@dataclass(frozen=True)
class Prompts:
    """Templates with a tokenizer: the token ids of every prompt.

    Raises ValueError if the templates want the chat form and the tokenizer has no chat template, or
    one that refuses them.
    """

    templates: Templates
    codec: Codec

    def __post_init__(self) -> None:
        if not self.templates.chat:
            return
        if self.codec.chat is None:
            raise ValueError(
                "prompt.chat is set, but the tokenizer has no chat template: use prompt=plain"
            )
        self._chat(self.codec.chat, "a", ())  # raises if the chat template refuses the settings

    def policy(self, problem: Problem, examples: Sequence[Problem] = ()) -> list[int]:
        """The prompt under which the policy is sampled, trained, scored and judged.

        `examples` precede it with their reference solutions; they are for judging only. Raises
        ValueError for an example without a solution.
        """
        shots = []
        for example in examples:
            if example.solution is None:
                raise ValueError(f"example {example.id!r} has no reference solution to show")
            shots.append(({"question": example.question}, example.solution))
        return self._ids(self.templates.policy, shots, question=problem.question)

    def rewrite(self, problem: Problem, attempt_ids: Sequence[int]) -> list[int]:
        """The prompt that asks the GRM to correct an attempt, shown without its end token."""
        return self._rewrite(problem, self.codec.without_end(attempt_ids))

    def attempt_place(self, problem: Problem) -> int:
        """The place in the prompt of `rewrite` at which the attempt begins."""
        return len(self._around_attempt(problem)[0])

    def _rewrite(self, problem: Problem, ids: list[int]) -> list[int]:
        before, *others = self._around_attempt(problem)
        prompt = list(before)
        for after in others:
            prompt += ids
            prompt += after
        return prompt

    def _around_attempt(self, problem: Problem) -> list[array[int]]:
        """The ids before, between and behind the places of `rewrite` that show the attempt.

        They are the same for all attempts at a problem, and encoding them takes most of the time
        that a prompt takes. They are therefore kept, 4 bytes per id.
        """
        if problem not in self._around_attempts:
            answer_only = problem.solution is None
            template = self.templates.rewrite_answer_only if answer_only else self.templates.rewrite
            # An id that no tokenizer has stands for the attempt.
            ids = self._ids(template, attempt=[_NO_ID], **_known(problem))
            places = [at for at, id_ in enumerate(ids) if id_ == _NO_ID]
            starts = [0, *(place + 1 for place in places)]
            stops = [*places, len(ids)]
            self._around_attempts[problem] = [
                array("i", ids[start:stop]) for start, stop in zip(starts, stops, strict=True)
            ]
        return self._around_attempts[problem]

    @cached_property
    def _around_attempts(self) -> dict[Problem, list[array[int]]]:
        return {}

    def locate(self, problem: Problem, attempt: str) -> list[int]:
        """The prompt that asks the GRM for the first wrong line of an attempt, given as text."""
        known = _known(problem)
        solution = known.get("solution") or known["answer"]
        return self._ids(
            self.templates.locate,
            attempt=labelled(attempt),
            **(known | {"solution": labelled(solution)}),
        )

    def located(self, step: int) -> list[int]:
        """The answer of the locating task, as the ids of a completion."""
        return self.codec.completion(filled(self.templates.located, {"step": str(step)}))

    def _ids(
        self,
        template: str,
        shots: Sequence[tuple[dict[str, str], str]] = (),
        /,
        **fields: str | list[int],
    ) -> list[int]:
        """Ids of a template with its `fields`, after the `shots` (fields and completion of each).

        The whole prompt is first made as text, in which a mark stands for each run of ids. Only
        then is the text between the marks encoded, so that the chat template sees all of it.
        """
        holes: list[list[int]] = []
        turns = [
            (self._filled(template, shown, holes), self._filled("{attempt}", {"attempt": s}, holes))
            for shown, s in shots
        ]
        text = self._filled(template, fields, holes)
        if self.templates.chat and self.codec.chat is not None:
            text = self._chat(self.codec.chat, text, turns)
        else:
            text = _BETWEEN_EXAMPLES.join([*("".join(turn) for turn in turns), text])

        first, *others = text.split(_HOLE)
        ids = [] if self.templates.chat else list(self.codec.prefix_ids)
        ids += self.codec.encode_start(first) if first else []
        for hole, piece in zip(holes, others, strict=True):
            ids += [*hole, *(self.codec.encode_marked(piece) if piece else [])]
        return ids

    def _chat(self, chat: Callable[..., str], user: str, earlier: Sequence[tuple[str, str]]) -> str:
        t = self.templates
        return chat(t.system, user, earlier, date=t.date, template_args=t.template_args)

    def _filled(
        self, template: str, fields: Mapping[str, str | list[int]], holes: list[list[int]]
    ) -> str:
        """The text of a template, with a mark for each run of ids, which is appended to `holes`.

        Raises ValueError for a field that is not among `fields`.
        """
        text = ""
        for literal, name in pieces_of(template):
            text += literal
            if name and name not in fields:
                raise ValueError(
                    f"the template {template[:80]!r} has the field {{{name}}}; this prompt has "
                    f"{', '.join(f'{{{field}}}' for field in fields)}"
                )
            for piece in self._pieces(fields[name]) if name else ():
                if isinstance(piece, str):
                    text += piece
                else:
                    text += _HOLE
                    holes.append(piece)
        return text

    def _pieces(self, field: str | list[int]) -> list[str | list[int]]:
        """A field as pieces of text and of ids.

        The text of a special token in a field becomes ids here, because the text of the prompt is
        encoded with special tokens.
        """
        if not isinstance(field, str):
            return [field]
        pieces = self.codec.cut_at_marks(field.replace(_HOLE, ""))
        return [self.codec.encode(p) if i % 2 else p for i, p in enumerate(pieces)]


def _known(problem: Problem) -> dict[str, str]:
    """The fields that a problem fills."""
    known = {"question": problem.question, "answer": problem.answer}
    if problem.solution is not None:
        known["solution"] = problem.solution
    return known
