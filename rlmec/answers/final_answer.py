"""The final answer in a completion, and its comparison with a gold answer that is a number or text.

In: a completion and a gold answer. Out: a verdict. The final answer is what follows the last
marker: `####`, a line that begins with `A:` or `Answer:`, a heading `Final Answer`, `The answer
is` (or `The correct option is`), `<answer>`, `\\boxed{...}`. It ends with its line or with
`</answer>`; where nothing else is on the line of the marker, it is the next line. Boxes that stand
together (`$\\boxed{1}$ and $\\boxed{2}$`) are one answer, a list.

Some markers state nothing and are passed over: Markdown headings (`#### 2. Add`), questions ("the
answer is 5?"), and judgements of an answer given before ("so the answer is correct").

There is no tolerance: on the released GSM8K model solutions exact comparison meets every label.
Options are compared in `options`, mathematics beyond numbers in `mathematics`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rlmec.answers.normal_form import LONGEST_ANSWER, clean, heads, normal_text, trimmed
from rlmec.answers.number_words import SCALES
from rlmec.answers.numbers import parse_number
from rlmec.records import Verdict

MARKERS = {
    "####": re.compile(r"(?<!#)####(?!#)"),
    "A:": re.compile(r"^[ \t]{0,8}A:", re.MULTILINE),
    "The answer is": re.compile(
        r"(?:the|my|our) (?:(?:final |correct |right |best )?answer(?: choice)?"
        r"(?: to (?:the|this|your|our) (?:question|problem|exercise))?"
        r"|(?:correct |right |best )(?:option|choice)) is(?!n['\u2019]?t\b):?",
        re.IGNORECASE,
    ),
    "Answer:": re.compile(
        r"^[ \t>*_#-]{0,8}(?:(?:the )?(?:(?:final |correct )?answer|correct (?:option|choice))"
        r"[*_ \t]{0,4}:"
        r"|(?:final )?answer[*_ \t]{0,4}$)",
        re.IGNORECASE | re.MULTILINE,
    ),
    "<answer>": re.compile(r"<answer>", re.IGNORECASE),
    "\\boxed{": re.compile(r"\\(?:boxed|fbox)(?: {0,4}\{|(?= {0,4}\d))"),
}
_IN_EVERY = {"####": "####", "A:": "A:", "\\boxed{": "box"}
"""A part of each marker that is quick to look for; the others have one of `_NAMES` in any case."""
_NAMES = ("answer", "option", "choice")

LONGEST_TEXT = 200_000
"""Characters of a text that are searched, counted from its end."""

_MOST_BOXES = 40
_LONGEST_NEXT_LINE = 300
_HEADING = re.compile(
    r"\**(?:Step|Part|Case|Phase|Stage|Method|Approach|Solution|Explanation|Verification|Check"
    r"|Proof|Analysis|Conclusion|Summary|Problem|Question|Note)\b(?:\s+\w{1,3})?\s*(?:[:.)*-].*)?"
    r"|\**\d{1,2}[.):]\s+\**(?!I\b|This\b|That\b|It\b|The\b|So\b|Thus\b)[A-Z][^.!?]*"
    r"|.*[A-Za-z]{2}:\**"
)
_JUDGEMENT = re.compile(
    r"(?:(?:indeed|also|now|thus|therefore|hence|probably|likely|definitely|clearly|actually|both"
    r"|in fact|then|still|most likely|quite|very|already|really) ){0,3}"
    r"(?:correct|right|accurate|valid|verified|confirmed|consistent|reasonable|sensible|plausible"
    r"|unique|complete|above|below|given|shown|stated|written|boxed|as (?:above|expected|shown)"
    r"|checked|fine|good|sound|clear|found|done|ready|the same|unchanged|what)\b",
    re.IGNORECASE,
)
_QUESTION = re.compile(r"[^.!?\n]*\?\W{1,8}(?:no|wait|hmm)\b", re.IGNORECASE)
_TAG_END = re.compile(r"</answer>", re.IGNORECASE)
_NOT = re.compile(r"\b(?:not|isn't|n't)\W{0,12}$")
_NOT_BUT = re.compile(
    r"not (?!(?:only|just|merely|simply|exactly|quite|really|necessarily|(?-i:an?))\b)"
    r"[^.!?\n]{1,60}?,? but (?:rather |instead )?"
    r"(?!(?:also|close|almost|nearly|it|he|she|they|that|this|not)\b)(.+)",
    re.IGNORECASE | re.DOTALL,
)
_EXCLAIMED = re.compile(r"\d!+\s*$")
_DISPLAY = (("$$", "$$"), ("\\[", "\\]"), ("```", "```"))
_SCALE_WORD = re.compile(rf"(?:\$|\\\)|\s){{0,4}}({'|'.join(SCALES)})\b", re.IGNORECASE)
# What may stand between two boxes of one answer.
_NAME = r"[a-zA-Z](?:_\{?\w\}?)?(?:\([a-z]\))?\s*="
_WORDS = (
    r"(?:and|or|also|as well as|for|to|part|case|(?-i:[a-z])|\d|the|is|respectively|with|when|at)"
)
_JOINT = re.compile(
    rf"(?:\n\s*(?:[-*\u2022]|\d{{1,2}}[.)])\s|\s|\$|\\[()\[\],;:! ]|\\q?quad\b|\\\\|[,;&*]"
    rf"|\\(?:text|mbox|mathrm)\{{|\}}|{_NAME}|\(?{_WORDS}\b[):]?|[({{])*+",  # never goes back
    re.IGNORECASE,
)
_CONNECTED = re.compile(
    r"[,;&]|\n\s*(?:[-*\u2022]|\d{1,2}[.)])\s|\band\b|\bor\b|\\q?quad|\\\\", re.IGNORECASE
)


def final_answer(text: str, markers: Sequence[str] = tuple(MARKERS)) -> str | None:
    """What follows the last of `markers` in `text`, without what encloses it; None without a
    marker.

    A marker with nothing after it is None as well. `markers` are keys of `MARKERS`. What stands in
    the braces of a box may run over several lines.
    """
    text = clean(text)[-LONGEST_TEXT:]
    found = _marked(text, markers)

    passed: str | None = None
    while found:
        end, start, name = found.pop()
        if name == "\\boxed{":
            if _NOT.search(text[max(0, start - 20) : start]):
                continue
            return trimmed(_boxed(text, start, end)) or None
        stated = _stated(text, end, name)
        if stated is None:
            continue
        answer = trimmed(stated)
        if found and _JUDGEMENT.match(answer):
            passed = passed or answer
            continue
        return answer or None
    return passed


def second_thought(answer: str) -> str:
    """What an answer names instead of another one: of "not 13 but 12" the second."""
    match = _NOT_BUT.fullmatch(answer)
    return match[1] if match else answer


def _marked(text: str, markers: Sequence[str]) -> list[tuple[int, int, str]]:
    """(end, start, name) of every marker, in order of the ends."""
    lowered = text.lower()
    named = any(name in lowered for name in _NAMES)
    found = []
    for name in markers:
        part = _IN_EVERY.get(name)
        if named if part is None else part in text:
            found += [(m.end(), m.start(), name) for m in MARKERS[name].finditer(text)]
    return sorted(found)


def _stated(text: str, start: int, name: str) -> str | None:
    """What follows a marker that is no box, as written; None where the marker states nothing."""
    inside, *closed = _TAG_END.split(text[start : start + LONGEST_ANSWER], maxsplit=1)
    if name == "<answer>" and closed:
        return inside
    line, _, below = inside.partition("\n")
    if name == "####" and _HEADING.fullmatch(line.strip()):
        return None
    if _QUESTION.match(line):
        return None

    stripped = line.strip()
    if not stripped.strip("*_: ") and name != "A:":
        stripped = _next_line(below)
    for left, right in _DISPLAY:
        if stripped.startswith(left):
            rest = text[text.index(left, start) + len(left) :][:LONGEST_ANSWER]
            inner, closing, after = rest.partition(right)
            if closing and inner.strip():
                return f"{left}{inner.strip()}{right}" + after.split("\n", 1)[0]
    return _inside_emphasis(stripped)


def _next_line(below: str) -> str:
    """The next line that is not blank where it may be an answer: a short one, or a formula."""
    line = below.lstrip().split("\n", 1)[0].strip()
    if line.startswith(("$", "\\")):
        return line
    return line if len(line) <= _LONGEST_NEXT_LINE else ""


def _inside_emphasis(line: str) -> str:
    """The part of a line inside the emphasis that its marker is in."""
    if line.count("**") % 2:
        inside, _, after = line.partition("**")
        return inside if inside.strip() else after
    return line


def _boxed(text: str, start: int, end: int) -> str:
    """The content of a box and of the boxes that belong to the same answer."""
    content, close = _content(text, end)
    scale = _SCALE_WORD.match(text, close)
    contents = [f"{content} {scale[1]}" if scale else content]

    boxes = [m for m in MARKERS["\\boxed{"].finditer(text, max(0, start - 4000), start)]
    for box in reversed(boxes[-_MOST_BOXES:]):
        content, close = _content(text, box.end())
        between = text[close:start]
        if not _belong_together(between):
            break
        contents.append(content)
        start = box.start()
    contents = list(dict.fromkeys(trimmed(content) for content in reversed(contents)))
    return ", ".join(content for content in contents if content)


def _belong_together(between: str) -> bool:
    """Whether what is between two boxes joins them into one answer."""
    if len(between) > 200 or "\n\n" in between or _JOINT.fullmatch(between) is None:
        return False
    return "\n" not in between or _CONNECTED.search(between) is not None


def _content(text: str, start: int) -> tuple[str, int]:
    """What a box holds, and where the box ends."""
    line = text[start : start + LONGEST_ANSWER]
    if text[start - 1] == "{":
        content = _until_brace(line)
        return content, start + len(content) + 1
    # TeX boxes a single sign without braces, and so do a few authors with a number
    content = re.split(r"[\s$]", line.lstrip(" "), maxsplit=1)[0]
    return content, start + len(line) - len(line.lstrip(" ")) + len(content)


def _until_brace(text: str) -> str:
    depth = 1
    for index, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[:index]
    return text


def marker_of(line: str) -> tuple[str, str] | None:
    """The marker as written and the answer of a line that begins with a marker; None otherwise."""
    for name in ("####", "A:", "The answer is"):
        match = MARKERS[name].match(line)
        if match:
            return match.group(), line[match.end() :].strip().rstrip(".")
    return None


def judge_number(text: str, gold: str, markers: Sequence[str] = tuple(MARKERS)) -> Verdict:
    """Verdict on the final answer of `text` where the gold answer has to be a number."""
    expected = parse_number(gold)
    if expected is None:
        return "unparsable"
    found = final_answer(text, markers)
    if found is None:
        return "no_answer"
    if found.endswith("!") and _EXCLAIMED.search(clean(text)):
        found = found.rstrip("!")  # "The answer is 5!" ends a text, and is no factorial
    value = parse_number(found, words=True)
    if value is None:
        value = parse_number(second_thought(found), words=True)
    return "right" if value == expected else "wrong"


def judge_answer(text: str, gold: str, markers: Sequence[str] = tuple(MARKERS)) -> Verdict:
    """Verdict where the gold answer is a number or a text.

    A gold answer that is a number alone is compared as a number, any other as normal text, so that
    "2 hours" is not "2 days".
    """
    if parse_number(gold, bare=True) is not None:
        return judge_number(text, gold, markers)
    return judge_text(text, gold, markers)


def judge_text(text: str, gold: str, markers: Sequence[str] = tuple(MARKERS)) -> Verdict:
    """Verdict where the gold answer is compared as text; looks and case do not count."""
    wanted = normal_text(gold)
    if not wanted:
        return "unparsable"
    found = final_answer(text, markers)
    if found is None:
        return "no_answer"
    # a sentence may follow: a text is named by any head of what is stated
    named = any(normal_text(head) == wanted for head, _ in heads(found))
    return "right" if named else "wrong"
