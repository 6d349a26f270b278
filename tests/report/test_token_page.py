"""The token-reward page's data: every token once, values as stored, texts that stay texts."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import product

import numpy as np
import pytest
from colours import contrast, rgb
from synthetic import END, NASTY, array, decode, made, texts

from rlmec.method.alignment import apply, edit_script
from rlmec.records import Alternatives
from rlmec.report.tables import credit_words
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


def test_what_the_trained_policy_makes_of_attempts_stands_with_them():
    asked = [case.again for case in CASES if case.again]
    assert 0 < len(asked) < len(CASES)
    stored = np.concatenate([again.logprobs for again in asked]).astype("<f4")
    assert array(DATA, "new_logprobs").tobytes() == stored.tobytes()
    written = "".join(DATA["pieces"][i] for i in array(DATA, "solutions"))
    assert written == "".join(again.solution.text for again in asked)
    for case, shown in zip(CASES, DATA["attempts"], strict=True):
        solution = case.again.solution if case.again else None
        assert shown["k"] == (len(solution.completion_ids) if solution else 0)
        assert shown["now"] == (solution.verdict.replace("_", " ") if solution else "")


def test_log_probs_of_another_attempt_are_refused():
    case = next(case for case in CASES if case.again)
    short = replace(case.again, logprobs=case.again.logprobs[1:])
    with pytest.raises(ValueError, match=r"has 40 tokens, again\.logprobs 39"):
        replace(case, again=short)


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


def test_alternatives_are_in_the_places_and_with_the_log_probs_that_were_kept():
    kept = [c.alternatives for c in CASES]
    assert [a["places"] for a in DATA["attempts"]] == [k.places if k else [] for k in kept]
    ids = [i for k in kept if k for i in k.ids]
    assert DATA["per_place"] == 2
    assert [DATA["pieces"][i] for i in array(DATA, "instead")] == [decode([i]) for i in ids]
    stored = np.float32([p for k in kept if k for p in k.logprobs])
    assert array(DATA, "instead_logprobs").tobytes() == stored.tobytes()
    assert len(ids) > 100
    mixed = [replace(CASES[1], alternatives=Alternatives("p0/1", [3], [4], [-1.0], "t")), CASES[2]]
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        page_data(mixed, texts(), [END], title="", choice="")


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


def test_a_page_says_what_was_run_and_leads_back_to_the_first_page():
    said = {"credit": "Of 9 punished ...", "index": "index.html", "facts": [("seed", "3")]}
    data = page_data(CASES[:2], texts(), [END], title="sums", choice="all", **said)
    assert (data["credit"], data["index"]) == (said["credit"], said["index"])
    assert data["facts"] == [["seed", "3"]]
    assert [p["solution"] for p in data["problems"]] == [CASES[0].problem.solution]


def test_credit_in_words_has_the_figures_of_unseen_attempts_and_says_so():
    shares = {"precision": 0.7249, "base_rate": 0.1081, "punished": 1156, "attempts": 40}
    credit = {f"grm/credit_{name}": value for name, value in shares.items()}
    words = credit_words(credit | {"grm/credit_truth": "oracle"})
    assert re.findall(r"\d[\d,]*(?: %)?", words) == ["1,156", "40", "72 %", "11 %"]
    assert "not trained on" in words
    assert "oracle" in words
    assert "accepted" in credit_words(credit | {"grm/credit_truth": "accepted_correction"})
    none = {"grm/credit_punished": 0, "grm/credit_attempts": 4, "grm/credit_truth": "oracle"}
    assert "4 wrong attempts" in credit_words(none)  # there is no precision without a penalty
    assert "%" not in credit_words({})


# ---- colours ----


def variables(theme, palette):
    """The page's colours as text, as the rules of its style apply to the root element."""
    style = files("rlmec.report").joinpath("token_page.css").read_text(encoding="utf-8")
    found = {}
    for selector, body in re.findall(r"^(:root\S*) \{(.*?)\}", style, re.DOTALL | re.MULTILINE):
        asked = dict(re.findall(r'\[data-(\w+)="(\w+)"\]', selector))
        if asked.items() <= {"theme": theme, "palette": palette}.items():
            found |= dict(re.findall(r"--([\w-]+): ([#\w%]+);", body))
    return found


def test_contrast_of_black_and_white_is_21():
    assert contrast(rgb("#000000"), rgb("#ffffff")) == pytest.approx(21)
    assert contrast(rgb("#777777"), rgb("#ffffff")) == pytest.approx(4.478, abs=1e-3)  # WebAIM's


@pytest.mark.parametrize(("theme", "palette"), [*product(("light", "dark"), ("blue", "green"))])
def test_every_text_can_be_read_on_what_is_below_it(theme, palette):
    named = variables(theme, palette)
    of = {name: rgb(text) for name, text in named.items() if text.startswith("#")}
    pairs = [(text, of[below]) for text in ("ink", "quiet") for below in ("paper", "card")]
    pairs += [("accent", of["paper"]), ("accent", of["card"]), ("edit", of["card"])]
    pairs += [("pos-text", of["card"]), ("neg-text", of["card"])]  # badges, lines of tokens
    pairs += [("ink", of["hold"]), ("edit", of["hold"])]  # tokens of the edit that is looked at

    # A fill is mixed with the card below it; its strength grows with the reward.
    least, most = (float(named[name].removesuffix("%")) / 100 for name in ("least", "most"))
    for fill, share in product(("pos", "neg", "heat"), np.linspace(least, most, 9)):
        pairs.append(("ink", share * of[fill] + (1 - share) * of["card"]))
    found = [(contrast(of[text], below), text, below) for text, below in pairs]
    assert len(found) == 38
    assert min(found, key=lambda f: f[0])[0] >= 4.5, min(found, key=lambda f: f[0])


def test_colours_are_named_once():
    """No rule has a colour of its own, which the test of the contrast would not see."""
    style = files("rlmec.report").joinpath("token_page.css").read_text(encoding="utf-8")
    rules = re.sub(r"^:root\S* \{.*?\}", "", style, flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"[\s:(]#[0-9a-fA-F]{3,8}\b(?=[;,) ])", rules) == []
    faint = re.findall(r"^(.*)\{[^}]*\bopacity: \.\d", rules, re.MULTILINE)
    assert [selector.strip() for selector in faint] == ["button:disabled"]
