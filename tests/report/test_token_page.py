"""The token-reward page's data: every token once, values as stored, texts that stay texts."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from synthetic import END, NASTY, array, decode, made, texts

from rlmec.method.alignment import apply, edit_script
from rlmec.report.token_page import (
    Case,
    chosen,
    page_data,
    page_html,
)

CASES = [made(n, nasty=n % 7 == 0) for n in range(30)]
DATA = page_data(CASES, texts(), [END], title="sums", choice="all", facts=[("a", "1")])


class Elements(HTMLParser):
    """The tags of a page, and the text inside each script and style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.inside, self._open = [], {"script": [], "style": []}, ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data):
        if self._open in self.inside:
            self.inside[self._open].append(data)
            self._open = ""


def test_every_token_is_there_once_and_numbers_are_the_stored_ones():
    attempts = [case.pair.attempt for case in CASES]
    assert [a["id"] for a in DATA["attempts"]] == [a.id for a in attempts]
    assert [a["n"] for a in DATA["attempts"]] == [len(a.completion_ids) for a in attempts]
    ids = [i for a in attempts for i in a.completion_ids]
    assert array(DATA, "ids").tolist() == ids
    assert "".join(DATA["pieces"][i] for i in array(DATA, "tokens")) == decode(ids)
    for name, stored in (
        ("rewards", [case.pair.token_rewards for case in CASES]),
        ("old_logprobs", [case.pair.old_logprobs for case in CASES]),
        ("grm_logprobs", [np.float32(case.grm_logprobs) for case in CASES]),
    ):
        assert array(DATA, name).tobytes() == np.concatenate(stored).astype("<f4").tobytes(), name
    problems = [DATA["problems"][a["problem"]]["id"] for a in DATA["attempts"]]
    assert problems == [a.problem_id for a in attempts]
    ends = {i for i, piece in enumerate(DATA["pieces"]) if piece == "<|end|>"}
    assert set(DATA["special"]) == ends


def test_edits_lead_from_the_attempt_to_the_correction():
    at = 0
    targets = array(DATA, "targets")
    for case, shown in zip(CASES, DATA["attempts"], strict=True):
        target = case.correction.completion_ids if case.correction else []
        assert shown["m"] == len(target)
        found = [DATA["pieces"][i] for i in targets[at : at + shown["m"]]]
        assert "".join(found) == decode(target)
        at += shown["m"]
        ids, built = case.pair.attempt.completion_ids, []
        for i in range(0, len(shown["ops"]), 5):
            tag, s0, s1, t0, t1 = shown["ops"][i : i + 5]
            built += ids[s0:s1] if tag == 0 else target[t0:t1]
        assert built == target
        if target:
            script = edit_script(ids, target)
            assert built == apply(script, ids, target)
    assert at == len(targets)


def test_the_data_comes_back_whole_and_no_text_is_markup():
    page = page_html(DATA)
    assert page.isascii()
    found = Elements(page)
    block, _ = found.inside["script"]
    assert json.loads(block) == DATA
    assert not set("<>&") & set(block)
    # nothing but the page's own elements, whatever the texts say
    plain = Elements(page_html(page_data(CASES[:1], texts(), [END], title="", choice="")))
    assert found.tags[:2] == plain.tags[:2]
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in plain.tags]
    assert any(piece == NASTY[0] for piece in DATA["pieces"])


def test_only_the_page_s_own_script_and_style_may_run():
    found = Elements(page_html(DATA))
    policy = next(a["content"] for _, a in found.tags if a.get("http-equiv"))
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    for name, text in (("script-src", found.inside["script"][1]), ("style-src", None)):
        text = text or found.inside["style"][0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    assert rules["trusted-types"] == "'none'"
    script = found.inside["script"][1]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", script)
    assert not re.search(
        r"""\b(src|href|style|on\w+)\s*=\s*["']""", page_html({**DATA, "pieces": []})
    )


def test_a_page_holds_all_or_an_even_choice_with_most_places_for_wrong_ones():
    assert chosen(CASES, 30) == CASES
    some = chosen(CASES, 10)
    assert some == chosen(list(reversed(CASES)), 10)[::-1]  # whatever the order of the records
    assert [c.pair.attempt.is_right for c in some].count(False) == 8
    assert some == [case for case in CASES if case in some]
    right = [case for case in CASES if case.pair.attempt.is_right]
    few_wrong = [*right, *[c for c in CASES if not c.pair.attempt.is_right][:2]]
    assert [c.pair.attempt.is_right for c in chosen(few_wrong, 10)].count(False) == 2
    mostly_wrong = [c for c in CASES if not c.pair.attempt.is_right] + right[:1]
    assert [c.pair.attempt.is_right for c in chosen(mostly_wrong, 10)].count(False) == 9
    short = chosen(CASES, 10, most_tokens=85)
    assert len(short) == 2
    assert set(map(id, short)) <= set(map(id, some))
    with pytest.raises(ValueError, match=r"report\.page_pairs"):
        chosen(CASES, 0)


def test_a_case_of_two_lengths_is_refused():
    with pytest.raises(ValueError, match=r"'p0/1'.* 40 .* 1"):
        Case(CASES[1].pair, CASES[1].problem, [0.0], None, taught=False)


def test_a_page_of_nothing_is_a_page():
    data = page_data([], texts(), [END], title="", choice="")
    assert (data["attempts"], array(data, "rewards").size) == ([], 0)
    assert json.loads(Elements(page_html(data)).inside["script"][0]) == data
