"""A user's own problems, in whatever form `datasets` reads and under the usual column names.

In: files, folders or patterns (`rlmec.tasks.rows`), or a data set on the Hugging Face hub, and the
names of its fields where they are not the usual ones. Out: problems, judged as numbers,
mathematics, options or text.

The usual names are `question` or `problem` with `answer` and `solution`, `prompt` with
`completion`, and `messages`. A setting that names a field comes first, and may be a path such as
`meta.answer`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rlmec.answers.final_answer import (
    final_answer,
    judge_answer,
    judge_number,
    judge_text,
    marker_of,
)
from rlmec.answers.math_verifier import Verifier
from rlmec.answers.normal_form import normal_text
from rlmec.answers.numbers import parse_number
from rlmec.answers.options import judge_option, options_of, read_option, with_options
from rlmec.records import Problem, Verdict
from rlmec.settings.ranges import PathText, PositiveFloat, ShareBelowOne
from rlmec.tasks.math import judge_mathematics
from rlmec.tasks.problem_tables import (
    ProblemTables,
    TableTask,
    digest_of,
    file_tables,
    hub_tables,
    make_problem,
)
from rlmec.tasks.rows import ASSISTANT_ROLES, MISSING, USER_ROLES, Row, message_of, shortened

QUESTIONS = ("question", "problem", "prompt", "instruction", "query")
ANSWERS = ("answer", "final_answer", "expected_answer", "correct_answer", "ground_truth", "gold")
ANSWERS += ("answerKey", "reward_model.ground_truth")
SOLUTIONS = ("solution", "completion", "response", "output", "rationale", "chosen")
OPTIONS = ("options", "choices")
MESSAGES = ("messages", "conversations", "conversation")
"""Names of fields that are looked for, in this order, where no setting names the field."""

_FORMULA = re.compile(r"\\|\^|\$.*\$")

Answers = Literal["auto", "number", "mathematics", "options", "text"]


class DatasetTask(TableTask):
    """Problems from files or from the hub, with fields named by settings or found by their names.

    `path` is a file, a folder, a pattern or a list of them, cut into splits by a hash of the
    question (`test_share`, `dev_share`), or one of these per split. Without it the data set `hub`
    is read, `hub_splits` naming its split for each of ours, or for `whole` one that is to be cut.
    Where dev is not given, `dev_share` of train becomes dev.

    The gold answer is what the answer field holds, or what follows the last answer marker in it; if
    there is none, it is the final answer of the solution. Without `id_field` an id is made from the
    question. `answers` says how answers are compared; "auto" decides per problem: as an option
    where the problem has options, as mathematics where the gold answer has LaTeX, as a number where
    it is one, and else as text.

    `left_out` lists rows without a question or a gold answer, and repeated questions.

    Raises FileNotFoundError for a missing file or an unreachable hub, and ValueError for bad rows,
    fields that cannot be found, and empty splits.
    """

    name = "dataset"

    def __init__(
        self,
        path: PathText
        | Sequence[PathText]
        | Mapping[str, PathText | Sequence[PathText] | None]
        | None = None,
        hub: str | None = None,
        hub_config: str | None = None,
        hub_revision: str | None = None,
        hub_splits: Mapping[str, str | None] | None = None,
        question_field: str | None = None,
        answer_field: str | None = None,
        solution_field: str | None = None,
        options_field: str | None = None,
        id_field: str | None = None,
        kind_field: str | None = None,
        answers: Literal["auto", "number", "mathematics", "options", "text"] = "auto",
        dev_share: ShareBelowOne = 0.1,
        test_share: ShareBelowOne = 0.2,
        time_limit: PositiveFloat = 0.5,
        memory_limit: PositiveFloat = 1.0,
    ) -> None:
        if bool(path) == bool(hub):
            raise ValueError(
                "task dataset: name local files (task.path=FILE) or a data set on the hub "
                f"(task.hub=NAME), one of the two; found path {path!r} and hub {hub!r}"
            )
        self.question_field, self.answer_field = question_field, answer_field
        self.solution_field, self.options_field = solution_field, options_field
        self.id_field, self.kind_field = id_field, kind_field
        self.answers: Answers = answers
        self.verifier = Verifier(time_limit, memory_limit)
        self._with_solution_field = 0
        self._with_system = 0

        if path:
            tables = file_tables(path)
        else:
            splits = hub_splits or {"train": "train", "test": "test"}
            tables = hub_tables(str(hub), hub_config, hub_revision, splits)
        self._tables = ProblemTables(self.name, tables, self._build, dev_share, test_share)

    @property
    def notes(self) -> list[str]:
        """What else a user should know about the rows read so far."""
        if not self._with_system:
            return []
        return [
            f"the system messages of {self._with_system} rows are not part of their questions; "
            "prompt.system sets one for all"
        ]

    def problems(self, split: str) -> list[Problem]:
        """The problems of `split` in file order."""
        found = super().problems(split)
        # A name that no row has is a misspelt one; a test file may well be without solutions.
        if split == "train" and self.solution_field and not self._with_solution_field:
            raise ValueError(
                f"task dataset: none of {len(found)} problems of split 'train' has the field "
                f"{self.solution_field!r} (task.solution_field)"
            )
        return found

    # -- judging --

    def judge(self, text: str, problem: Problem) -> Verdict:
        """Compares the final answer with the gold answer, as `answers` says."""
        kind = self._kind_of_answer(problem)
        if kind == "mathematics":
            return judge_mathematics(self.verifier, [text], [problem.answer])[0]
        return _JUDGES[kind](text, problem)

    def judge_many(self, texts: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """Verdicts on many texts; those that need the verifier go to it together."""
        verdicts: dict[int, Verdict] = {}
        formulas: list[int] = []
        for index, (text, problem) in enumerate(zip(texts, problems, strict=True)):
            if self._kind_of_answer(problem) == "mathematics":
                formulas.append(index)
            else:
                verdicts[index] = self.judge(text, problem)

        answers = [texts[index] for index in formulas]
        golds = [problems[index].answer for index in formulas]
        checked = judge_mathematics(self.verifier, answers, golds)
        verdicts |= dict(zip(formulas, checked, strict=True))
        return [verdicts[index] for index in range(len(texts))]

    def _kind_of_answer(self, problem: Problem) -> str:
        if self.answers != "auto":
            return self.answers
        if problem.options:
            return "options"
        if parse_number(problem.answer, bare=True) is not None:
            return "number or text"
        return "mathematics" if _FORMULA.search(problem.answer) else "number or text"

    # -- reading rows --

    def _build(self, row: Row) -> Problem | str:
        asked = self._question(row)
        if isinstance(asked, str):
            return asked
        solution = self._solution(row, asked)

        options = self._options(row)
        question = with_options(asked.question, options) if options else asked.question
        options = options or options_of(question)
        if self.answers == "options" and len(options) < 2:
            return f"the question has {len(options)} options; expected two or more"

        found = self._answer(row, options, solution)
        if found is None:
            return self._no_answer(row)
        gold, steps = found
        if options and self.answers in ("auto", "options") and read_option(gold, options) is None:
            return f"the answer {shortened(gold)!r} is none of the options, or more than one"
        if self.answers == "number" and parse_number(gold) is None:
            return f"the answer {shortened(gold)!r} is no number"

        id = row.text(self.id_field) if self.id_field else f"{self.name}-{digest_of(question)[:16]}"
        kind = (row.text_or_none(self.kind_field) or "") if self.kind_field else ""
        return make_problem(row, id, question, gold, solution or steps, kind, options)

    def _question(self, row: Row) -> _Asked | str:
        """The question and, of a conversation, the reply; or why the row has none."""
        field = self.question_field or _first_field(row, (*QUESTIONS, *MESSAGES))
        if field is None:
            raise ValueError(
                f"{row.where}: no field for the question; looked for "
                f"{', '.join((*QUESTIONS, *MESSAGES))}, found {row.names}; name it with "
                "task.question_field=FIELD (and task.answer_field, task.solution_field), "
                "FIELD.INNER for a field within an object"
            )
        asked = self._turns(row, field)
        if isinstance(asked, str):
            return asked
        if not asked.question.strip():
            return "the question is blank"

        more = row.text_or_none("input") if field == "instruction" else None
        return asked if more is None else asked._replace(question=f"{asked.question}\n\n{more}")

    def _turns(self, row: Row, field: str) -> _Asked | str:
        """A field that holds the question as text, or as a conversation of one question."""
        value = row.value(field)
        if value is None:
            return "the question is blank"
        if not isinstance(value, list | tuple):
            return _Asked(row.text(field), None)

        said = [message_of(row, field, message) for message in value]
        questions = [text for role, text in said if role in USER_ROLES]
        replies = [text for role, text in said if role in ASSISTANT_ROLES]
        if len(questions) != 1 or len(replies) > 1:
            return (
                f"a conversation of {len(questions)} questions and {len(replies)} replies in "
                f"{field!r}; expected one question and one reply at most"
            )
        self._with_system += any(role == "system" for role, _ in said)
        return _Asked(questions[0], replies[0] if replies else None)

    def _solution(self, row: Row, asked: _Asked) -> str | None:
        """The reference solution; None where the row has none, or a blank one."""
        field = self.solution_field or _first_field(row, SOLUTIONS)
        if field is None or row.value(field) is MISSING:
            return asked.reply or self._reply(row)
        self._with_solution_field += field == self.solution_field
        value = row.value(field)
        if isinstance(value, list | tuple):
            replies = [message_of(row, field, message)[1] for message in value]
            return replies[-1] if replies else None
        return row.text_or_none(field)

    def _reply(self, row: Row) -> str | None:
        """The reply of a conversation in a field next to the question."""
        field = None if self.solution_field else _first_field(row, MESSAGES)
        if field is None or not isinstance(row.value(field), list | tuple):
            return None
        asked = self._turns(row, field)
        return None if isinstance(asked, str) else asked.reply

    def _options(self, row: Row) -> tuple[str, ...]:
        """The options of the row's own field for them; none where it has none."""
        field = self.options_field or _first_field(row, OPTIONS)
        if field is None or self.answers not in ("auto", "options"):
            return ()
        value = row.value(field)
        if isinstance(value, dict):
            value = value.get("text", list(value.values()))
        if not isinstance(value, list | tuple) or not value:
            return () if self.options_field is None else row.texts(field)
        shown = Row(row.file, row.number, {field: value}, row.line).texts(field)
        return tuple(" ".join(option.split()) for option in shown)

    def _answer(
        self, row: Row, options: tuple[str, ...], solution: str | None
    ) -> tuple[str, str | None] | None:
        """The gold answer, and the whole text that it was found in where that is a solution."""
        field = self.answer_field or _first_field(row, ANSWERS)
        value = MISSING if field is None else row.value(field)
        if field is None or value is MISSING or value is None:
            return _stated(solution)

        if options and (named := self._labelled(row, value, options)) is not None:
            return named, None
        text = row.text_or_none(field)
        if text is None:
            return _stated(solution)
        stated = final_answer(text)
        if stated is None:
            return (text, None) if normal_text(text) else _stated(solution)
        return stated, text if _has_steps(text) else None

    def _labelled(self, row: Row, value: Any, options: tuple[str, ...]) -> str | None:
        """The option with an index from 0, or with a label that the row gives it."""
        field = self.options_field or _first_field(row, OPTIONS)
        given = row.value(field) if field else None
        if isinstance(given, dict):
            labels = given.get("label", list(given)) if "text" in given else list(given)
            named = dict(zip(map(str, labels), options, strict=False))
            return named.get(str(value).strip())
        # Options that are numbers themselves are named by their value.
        texts = isinstance(given, list | tuple) and all(isinstance(one, str) for one in given)
        is_index = texts and isinstance(value, int) and not isinstance(value, bool)
        return options[value] if is_index and 0 <= value < len(options) else None

    def _no_answer(self, row: Row) -> str:
        field = self.answer_field or _first_field(row, ANSWERS)
        if field is not None and row.value(field) is not MISSING:
            return f"no gold answer: the field {field!r} is blank"
        looked = self.answer_field or ", ".join(ANSWERS)
        return (
            f"no gold answer: no field {looked}, and no solution that ends in an answer; found "
            f"{row.names}; name it with task.answer_field=FIELD"
        )


class _Asked(NamedTuple):
    """The question of a row and, where a conversation has one, the reply to it."""

    question: str
    reply: str | None


def _number_or_text(text: str, problem: Problem) -> Verdict:
    return judge_answer(text, problem.answer)


def _number(text: str, problem: Problem) -> Verdict:
    return judge_number(text, problem.answer)


def _option(text: str, problem: Problem) -> Verdict:
    return judge_option(text, problem.answer, problem.options)


def _text(text: str, problem: Problem) -> Verdict:
    return judge_text(text, problem.answer)


_JUDGES: dict[str, Callable[[str, Problem], Verdict]] = {
    "number": _number,
    "number or text": _number_or_text,
    "options": _option,
    "text": _text,
}


def _first_field(row: Row, names: Sequence[str]) -> str | None:
    """The first of `names` that the row has with a value; without one, the first that it has."""
    found = [name for name in names if row.value(name) is not MISSING]
    filled = (name for name in found if not _is_blank(row.value(name)))
    return next(filled, found[0] if found else None)


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _stated(solution: str | None) -> tuple[str, None] | None:
    answer = final_answer(solution or "")
    return None if answer is None or not normal_text(answer) else (answer, None)


def _has_steps(text: str) -> bool:
    """Whether a text with an answer marker has anything before the marker."""
    text = text.strip()
    return marker_of(text) is None and not text.lstrip("$ ").startswith("\\boxed")
