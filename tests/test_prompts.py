"""Prompts as ids: attempts verbatim, text with its surroundings, one prompt for every use."""

import datetime
import inspect
from dataclasses import asdict, fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import CHAT, PROBLEMS, TEMPLATES, chat_tokenizer, prompts, tokenizer

from rlmec.data.grm_rows import rewriting_row
from rlmec.data.policy_rows import reference_rows
from rlmec.lm.tokenizers import codec
from rlmec.prompts import (
    TAKEN_ARGS,
    TEMPLATE_FIELDS,
    Prompts,
    check_template,
    check_text,
    filled,
    labelled,
)
from rlmec.settings.schema import PromptSettings

FIXED = settings(derandomize=True, deadline=None, max_examples=50)
PROBLEM = PROBLEMS[3]
ids_of_the_vocabulary = st.lists(st.integers(0, len(tokenizer()) - 1), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def chat():
    return Prompts(replace(TEMPLATES, chat=True, system="Be brief."), codec(chat_tokenizer()))


# --- text and ids ---


def test_a_text_field_is_encoded_with_the_text_around_it():
    made = Prompts(replace(TEMPLATES, policy="An{question}s"), codec(tokenizer()))
    question = replace(PROBLEM, question="n has 3 pen")
    encode = made.codec.encode
    assert made.policy(question) == encode("Ann has 3 pens")
    assert encode("Ann has 3 pens") != encode("An") + encode("n has 3 pen") + encode("s")


@FIXED
@given(ids_of_the_vocabulary)
def test_an_attempt_stands_in_the_prompt_as_it_is(attempt):
    made, encode = prompts(), prompts().codec.encode
    kept = attempt[:-1] if attempt[-1] == made.codec.end_id else attempt
    before = encode(f"{PROBLEM.question}\nSolution:\n{PROBLEM.solution}\nAttempt:\n")
    assert made.rewrite(PROBLEM, attempt) == before + kept + encode("\nCorrected:\n")


def test_ids_that_encoding_would_join_stay_apart():
    """Bytes of "pens" one by one: their text encodes to fewer ids, the prompt holds the many."""
    encode, decode = prompts().codec.encode, prompts().codec.decode
    apart = [encode(letter)[0] for letter in "pens"]
    assert len(encode(decode(apart))) < len(apart) == 4
    made = prompts().rewrite(PROBLEM, apart)
    assert any(made[i : i + 4] == apart for i in range(len(made)))


@FIXED
@given(ids_of_the_vocabulary)
def test_an_attempt_in_a_chat_prompt_stands_as_it_is(chat, attempt):
    encode = chat.codec.encode_marked
    kept = attempt[:-1] if attempt[-1] == chat.codec.end_id else attempt
    before = f"<|system|>Be brief.<|end|><|user|>{PROBLEM.question}\nSolution:\n{PROBLEM.solution}"
    after = "\nCorrected:\n<|end|><|assistant|>"
    assert chat.rewrite(PROBLEM, attempt) == [
        *encode(f"{before}\nAttempt:\n"),
        *kept,
        *encode(after),
    ]


@pytest.mark.parametrize("question", ["{attempt}", "{solution}{answer}", "{question}", "{step}"])
def test_braces_in_a_question_are_not_expanded(question):
    problem = replace(PROBLEM, question=question)
    text = f"{question}\nSolution:\n{PROBLEM.solution}\nAttempt:\n"
    encode = prompts().codec.encode
    assert prompts().policy(problem) == encode(f"{question}\n")
    assert prompts().rewrite(problem, [5, 6]) == [*encode(text), 5, 6, *encode("\nCorrected:\n")]


def test_the_mark_of_a_hole_in_a_question_opens_none():
    problem = replace(PROBLEM, question="a\ue000b")
    assert prompts().rewrite(problem, [5, 6]) == prompts().rewrite(
        replace(PROBLEM, question="ab"), [5, 6]
    )


# --- fields ---


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{question}", "Q"),
        (r"\boxed{} {question} {1} { question }", r"\boxed{} Q {1} { question }"),
        (r"\boxed{{answer}}: {question}", r"\boxed{answer}: Q"),  # doubled: plain braces
        (r"\frac{{1}}{{2}} {question}", r"\frac{{1}}{{2}} Q"),  # 1 is no identifier
        ("{{question}}={question}{question}", "{question}=QQ"),
    ],
)
def test_only_identifiers_in_braces_are_fields(template, text):
    assert filled(template, {"question": "Q"}) == text
    made = Prompts(replace(TEMPLATES, policy=template), prompts().codec)
    assert made.policy(replace(PROBLEM, question="Q")) == made.codec.encode_start(text)


NAMES = ["policy", "rewrite", "rewrite_answer_only", "locate", "located"]
BAD_TEMPLATES = [
    ("policy", "{qestion}", r"\{qestion\}.*\{question\}"),
    ("policy", "{question} {solution}", r"\{solution\}"),  # a policy that is shown the solution
    ("policy", "{question} {step}", r"\{step\}"),
    ("policy", "Solve it.", r"\{question\}"),
    ("policy", "{{question}}", r"\{question\}"),
    ("policy", "{question}\\nAnswer:", "backslash"),
    ("rewrite", "{question}{solution}", r"\{attempt\}"),
    ("rewrite", "{solution}{attempt}", r"\{question\}"),
    ("rewrite_answer_only", "{question}{attempt}{solution}", r"\{solution\}"),
    ("locate", "{question}{attempts}", r"\{attempts\}.*\{attempt\}"),
    ("located", "The step is [step].", r"\{step\}"),
    ("located", "{step} of {question}", r"\{question\}"),
]


@pytest.mark.parametrize(("name", "template", "found"), BAD_TEMPLATES)
def test_a_template_with_a_wrong_or_missing_field_is_refused(name, template, found):
    with pytest.raises(ValueError, match=f"{name} .*{found}"):
        check_template(name, template, TEMPLATE_FIELDS[name])


@pytest.mark.parametrize("name", NAMES)
def test_every_template_has_fields_and_is_checked_as_a_setting(name):
    assert set(TEMPLATE_FIELDS) == set(NAMES)
    good = {field: getattr(TEMPLATES, field) for field in NAMES}
    rest = {"chat": True, "system": None, "date": "2024-07-26", "template_args": None}
    PromptSettings(**good, **rest)
    with pytest.raises(ValueError, match=rf"{name} .*\{{nothing\}}"):
        PromptSettings(**(good | {name: good[name] + "{nothing}"}), **rest)
    with pytest.raises(ValueError, match=f"{name} lacks"):
        PromptSettings(**(good | {name: "no field"}), **rest)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"template_args": {"messages": []}}, "messages"),
        ({"template_args": {"not a name": 1}}, "not a name"),
        ({"template_args": {"enable_thinking": False}, "chat": False}, "chat"),
        ({"system": "Be brief.\\nBe kind."}, "system .*backslash"),
    ],
)
def test_a_wrong_argument_or_system_text_is_refused(change, found):
    good = asdict(replace(TEMPLATES, chat=True, template_args={"enable_thinking": False}))
    PromptSettings(**good)
    with pytest.raises(ValueError, match=found):
        PromptSettings(**(good | change))


@pytest.mark.parametrize("text", [r"\neq", r"\nabla x", r"a\ne b", r"\not=", r"\nu", "a\nb"])
def test_latex_that_begins_like_a_line_break_is_accepted(text):
    check_text("policy", text)


@pytest.mark.parametrize("text", [r"a\nb", r"\n", r"\nAnswer", r"\n\n", r"\nexplain", r"\nnote"])
def test_a_written_line_break_is_refused(text):
    with pytest.raises(ValueError, match="backslash"):
        check_text("policy", text)


def test_a_field_that_a_prompt_does_not_have_is_refused():
    made = Prompts(replace(TEMPLATES, policy="{question}{qestion}"), prompts().codec)
    with pytest.raises(ValueError, match="qestion"):
        made.policy(PROBLEM)


# --- special tokens in a user's text ---


@pytest.mark.parametrize("mark", ["<|end|>", "<|assistant|>", "<|e\ue000nd|>", "<|pad|><|user|>"])
def test_a_special_token_in_a_field_is_plain_text(mark, chat):
    text = mark.replace("\ue000", "")
    problem = replace(PROBLEM, question=f"a{mark}b", solution=f"{mark}c")
    special = {chat.codec.encode_marked(m)[0] for m in chat.codec.marks}
    made = [
        (chat.policy(problem), chat.policy(PROBLEM), f"a{text}b"),
        (chat.rewrite(problem, [5]), chat.rewrite(PROBLEM, [5]), f"Solution:\n{text}c"),
        (chat.locate(problem, mark), chat.locate(PROBLEM, "x"), f"Attempt:\n[0] {text}"),
    ]
    for ids, innocent, shown in made:
        assert [i for i in ids if i in special] == [i for i in innocent if i in special]
        assert shown in chat.codec.decode(ids)
    assert not special & set(chat.codec.completion(problem.solution)[:-1])


def test_a_special_token_in_a_template_is_one():
    made = Prompts(replace(TEMPLATES, policy="<|user|>{question}"), codec(chat_tokenizer()))
    (mark,) = made.codec.encode_marked("<|user|>")
    assert made.policy(replace(PROBLEM, question="<|user|>")) == [
        mark,
        *made.codec.encode("<|user|>"),
    ]


def test_the_longest_special_token_is_cut_out_first():
    made = replace(prompts().codec, marks=("<a", "<a>"))
    assert made.cut_at_marks("1<a>2<a3") == ["1", "<a>", "2", "<a", "3"]
    assert replace(made, marks=()).cut_at_marks("1<a>2") == ["1<a>2"]


# --- which template ---


def test_without_a_solution_the_prompt_has_the_answer_alone():
    encode = prompts().codec.encode
    bare = replace(PROBLEM, solution=None)
    text = f"{PROBLEM.question}\nAnswer: {PROBLEM.answer}\nAttempt:\n"
    assert prompts().rewrite(bare, [5]) == [*encode(text), 5, *encode("\nCorrected:\n")]


def test_the_locating_prompt_labels_the_lines_of_both():
    encode = prompts().codec.encode
    solution = "[0] 3 + 5 = 8\n[1] The answer is 8."
    text = f"{PROBLEM.question}\nSolution:\n{solution}\nAttempt:\n[0] 1\n[1] 2\nFirst wrong step:\n"
    assert prompts().locate(PROBLEM, "1\n2") == encode(text)


def test_the_locating_prompt_without_a_solution_shows_the_answer():
    encode = prompts().codec.encode
    text = f"{PROBLEM.question}\nSolution:\n[0] 8\nAttempt:\n[0] 1\nFirst wrong step:\n"
    assert prompts().locate(replace(PROBLEM, solution=None), "1") == encode(text)


def test_labels_count_every_line():
    assert labelled("a\n\nb") == "[0] a\n[1] \n[2] b"
    assert labelled("\n".join("x" * 12)).endswith("\n[11] x")


def test_a_located_step_of_two_digits():
    codec_ = prompts().codec
    assert prompts().located(10) == [*codec_.encode("The first error step is [10]."), codec_.end_id]


# --- one prompt for every use ---


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_training_uses_the_prompt_that_sampling_uses(form, chat):
    class Joined:
        prompts = chat if form == "chat" else prompts()
        problems = {p.id: p for p in PROBLEMS}  # noqa: RUF012

    for row, problem in zip(reference_rows(Joined), PROBLEMS, strict=True):
        assert row.input_ids[: row.prompt_length].tolist() == Joined.prompts.policy(problem)
        target = Joined.prompts.codec.completion(problem.solution)
        assert row.input_ids[row.prompt_length :].tolist() == target


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_scoring_uses_the_prompt_that_rewriting_was_trained_on(form, chat):
    made, attempt = chat if form == "chat" else prompts(), [7, 9, 11, 1]
    scored = rewriting_row(made, PROBLEM, attempt, attempt, "scored")
    trained = rewriting_row(made, PROBLEM, attempt, [7, 8, 11, 1], "trained")
    shown = made.rewrite(PROBLEM, attempt)
    for row, target in ((scored, attempt), (trained, [7, 8, 11, 1])):
        assert row.input_ids.tolist() == [*shown, *target]
        assert row.prompt_length == len(shown)


# --- chat ---


def test_the_chat_prompt_is_the_tokenizers_own_with_its_marks_as_single_ids(chat):
    tok = chat_tokenizer()
    turns = [{"role": "system", "content": "Be brief."}]
    turns.append({"role": "user", "content": f"{PROBLEM.question}\n"})
    made = tok.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)
    assert chat.policy(PROBLEM) == made["input_ids"]
    assert made["input_ids"].count(tok.convert_tokens_to_ids("<|user|>")) == 1
    assert made["input_ids"][-1] == tok.convert_tokens_to_ids("<|assistant|>")


def test_without_a_system_text_there_is_no_system_turn(chat):
    bare = Prompts(replace(chat.templates, system=None), chat.codec)
    assert chat.codec.decode(bare.policy(PROBLEM)).startswith("<|user|>")


def test_a_start_token_of_the_chat_template_is_not_doubled():
    tok = chat_tokenizer()
    tok.bos_token, tok.chat_template = "<|system|>", "<|system|>" + CHAT
    coded = replace(codec(tok), prefix_ids=(tok.bos_token_id,))
    made = Prompts(replace(TEMPLATES, chat=True), coded).policy(PROBLEM)
    assert made.count(tok.bos_token_id) == 1
    plain = Prompts(TEMPLATES, coded).policy(PROBLEM)
    assert plain == [tok.bos_token_id, *coded.encode(f"{PROBLEM.question}\n")]


def test_a_missing_chat_template_is_refused():
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        Prompts(replace(TEMPLATES, chat=True), codec(tokenizer()))


# --- chat templates that ask for more than the turns ---


def chat_with(template, **settings):
    """Prompts over a tokenizer with its own chat template."""
    tok = chat_tokenizer()
    tok.chat_template = template
    return Prompts(replace(TEMPLATES, chat=True, **settings), codec(tok))


DATED = (  # as Llama 3.2 writes it
    "{%- if strftime_now is defined %}{%- set day = strftime_now('%d %b %Y') %}"
    "{%- else %}{%- set day = '1 Jan 1900' %}{%- endif %}\n"
    "{%- macro shown(format) %}{{ strftime_now(format) }}{% endmacro %}"
    "Today: {{ day }} {{ shown('%B %-d, %Y') }} {{ strftime_now(\"%Y-%m-%d %H:%M 100%%\") }}\n"
    + CHAT
)


@pytest.mark.parametrize(
    ("date", "text"),
    [
        ("2024-07-26", "Today: 26 Jul 2024 July 26, 2024 2024-07-26 00:00 100%\n<|user|>"),
        ("2031-02-03", "Today: 03 Feb 2031 February 3, 2031 2031-02-03 00:00 100%\n<|user|>"),
    ],
)
def test_a_chat_template_shows_the_date_of_the_settings(date, text):
    made = chat_with(DATED, date=date)
    assert made.codec.decode(made.policy(PROBLEM)).startswith(text)


@pytest.mark.parametrize("letter", "aAbBdeHIjmMSUwWyYp")
def test_every_directive_is_that_of_strftime(letter):
    for date in ("2024-07-06", "1999-12-31"):
        made = chat_with(f"{{{{ strftime_now('x%{letter}%%{letter}y') }}}}" + CHAT, date=date)
        day = datetime.datetime.fromisoformat(date)
        shown = made.codec.decode(made.policy(PROBLEM)).partition("<|user|>")[0]
        assert shown == day.strftime(f"x%{letter}%%{letter}y")


def test_a_dated_template_keeps_its_own_spaces():
    """Without a date it is rendered exactly as with one that shows nothing."""
    for start in ("", " ", "\n", "\n\n  ", "  {% if true %}\n a{% endif %}"):
        dated = chat_with(start + "{%- set unused = strftime_now('') %}" + CHAT)
        plain = chat_with(start + "{%- set unused = '' %}" + CHAT)
        assert dated.policy(PROBLEM) == plain.policy(PROBLEM)


def test_template_arguments_reach_the_chat_template():
    text = "{{ 'think' if enable_thinking | default(true) else 'answer' }}{{ effort }}" + CHAT
    made = chat_with(text, template_args={"enable_thinking": False, "effort": "low"})
    assert made.codec.decode(made.policy(PROBLEM)).startswith("answerlow<|user|>")
    with pytest.raises(ValueError, match="enable_thinkng"):
        chat_with(text, template_args={"enable_thinkng": False})


@pytest.mark.parametrize("drawn", ["{{ ['a', 'b'] | random }}", "{{ lipsum(1) }}"])
def test_a_chat_template_that_draws_at_random_is_refused(drawn):
    with pytest.raises(ValueError, match=r"random|lipsum"):
        chat_with(drawn + CHAT)


def test_a_system_text_that_the_chat_template_refuses_ends_with_its_message():
    text = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    )
    chat_with(text + CHAT)
    with pytest.raises(ValueError, match="no system role"):
        chat_with(text + CHAT, system="Be brief.")


def test_no_argument_of_the_library_can_be_given_as_one_of_the_template():
    parameters = inspect.signature(chat_tokenizer().apply_chat_template).parameters
    assert {name for name in parameters if name != "kwargs"} <= TAKEN_ARGS


def test_the_digest_of_templates_counts_date_and_arguments():
    others = [{"date": "2024-07-27"}, {"template_args": {"a": 1}}, {"template_args": {"a": 2}}]
    assert len({TEMPLATES.digest, *(replace(TEMPLATES, **o).digest for o in others)}) == 4


# --- codec and digest ---


def test_a_completion_ends_with_the_end_token_and_its_text_has_none():
    made = prompts().codec
    assert made.completion("3 + 5")[-1] == made.end_id
    assert made.text(made.completion("3 + 5")) == "3 + 5"
    assert made.text(made.encode("3 + 5")) == "3 + 5"
    assert made.text([]) == ""


def test_any_end_id_of_the_model_is_left_out_of_text_and_prompt():
    other = prompts().codec.encode("A")[0]
    coded = codec(tokenizer(), [other, prompts().codec.end_id])
    assert coded.end_ids == (coded.end_id, other)
    assert coded.text([*coded.encode("3 + 5"), other]) == "3 + 5"
    assert coded.completion("3")[-1] == coded.end_id
    made = Prompts(TEMPLATES, coded)
    assert made.rewrite(PROBLEM, [5, other]) == made.rewrite(PROBLEM, [5])


def test_every_field_changes_the_digest_of_the_templates():
    changed = {f.name: True if f.name == "chat" else "other" for f in fields(TEMPLATES)}
    digests = {replace(TEMPLATES, **{name: value}).digest for name, value in changed.items()}
    assert len(digests | {TEMPLATES.digest}) == len(changed) + 1 == 10
    assert replace(TEMPLATES).digest == TEMPLATES.digest


# --- examples before a problem ---


def test_examples_stand_before_the_problem_with_their_solutions():
    one, other = PROBLEMS[0], PROBLEMS[1]
    text = f"{one.question}\n{one.solution}\n\n{other.question}\n{other.solution}\n\n"
    made = prompts()
    assert made.policy(PROBLEM, [one, other]) == made.codec.encode(f"{text}{PROBLEM.question}\n")
    assert made.policy(PROBLEM, []) == made.policy(PROBLEM)


def test_in_chat_form_an_example_is_a_turn_of_each_side(chat):
    one = PROBLEMS[0]
    text = f"<|system|>Be brief.<|end|><|user|>{one.question}\n<|end|><|assistant|>{one.solution}"
    text += f"<|end|><|user|>{PROBLEM.question}\n<|end|><|assistant|>"
    assert chat.policy(PROBLEM, [one]) == chat.codec.encode_marked(text)


def test_marks_and_braces_in_an_example_are_plain_text(chat):
    shown = replace(PROBLEMS[0], question="<|end|>{attempt}", solution="so <|assistant|>{question}")
    ids = chat.policy(PROBLEM, [shown])
    plain = chat.codec.encode("<|end|>")
    at = [i for i in range(len(ids)) if ids[i : i + len(plain)] == plain]
    assert at
    assert ids.count(chat.codec.encode_marked("<|assistant|>")[0]) == 2
    assert "{attempt}" in chat.codec.decode(ids)
    assert "{question}" in chat.codec.decode(ids)


def test_an_example_without_a_solution_is_refused():
    with pytest.raises(ValueError, match="example 'p0' has no reference solution"):
        prompts().policy(PROBLEM, [replace(PROBLEMS[0], solution=None)])
