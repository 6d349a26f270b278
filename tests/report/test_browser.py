"""The token-reward page in a real browser: what it shows, what its filters count, and how soon."""

from functools import cache
from xml.etree import ElementTree

import browser
import numpy as np
import pytest
from synthetic import END, NASTY, PIECES, made, texts

from rlmec.report.token_page import page_data, page_html

FOUND = browser.found()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOUND is None, reason=f"no browser here: none of {browser.NAMES}"),
]
COUNT = 5000
READY = 15.0
"""Seconds; about 2 on an idle core. The margin is for slow machines."""


@cache
def cases():
    return [made(n, nasty=n == 8) for n in range(COUNT)]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """An open browser, the address of the page of 5,000 attempts that is loaded in it, and the
    processor seconds that this took the page's process, its own start included."""
    folder = tmp_path_factory.mktemp("page")
    path = folder / "tokens.html"
    path.write_text(page_html(page_data(cases(), texts(), [END], title="sums", choice="all")))
    with browser.Browser(str(FOUND), folder / "profile") as tab:
        tab.open(path.as_uri())
        tab.do("Performance.enable")
        spent = {m["name"]: m["value"] for m in tab.do("Performance.getMetrics")["metrics"]}
        yield tab, path.as_uri(), spent["ProcessTime"]


@pytest.fixture
def page(opened):
    return opened[:2]


def test_it_is_ready_in_time(opened):
    """By processor time, which is what the clock shows on a quiet machine."""
    tab, url, seconds = opened
    assert seconds < READY
    tab.open(url)
    assert int(tab.value("document.documentElement.dataset.ready")) > 0
    assert shown(tab) == sum(map(is_wrong, cases()))  # the page opens on wrong attempts
    assert tab.value("document.querySelectorAll('article').length") == 20


def view(tab, choice):
    """Shows what the page shows at this address; without loading its 5,000 attempts again."""
    tab.value(f"history.replaceState(null, '', '#{choice}'); fromHash()")


def shown(tab):
    """The number of attempts that the filters leave, as the page says it."""
    words = tab.value("document.getElementById('where').textContent")
    return 0 if words == "no attempt" else int(words.split(" of ")[1].split()[0].replace(",", ""))


def is_wrong(case):
    return not case.pair.attempt.is_right


def accepted(case):
    return case.correction is not None and case.correction.accepted


def edits(case):
    """(punished but kept, removed but not punished) tokens of a corrected case."""
    from rlmec.method.alignment import edit_script

    if not (is_wrong(case) and accepted(case)):
        return 0, 0
    ids = case.pair.attempt.completion_ids
    removed = edit_script(ids, case.correction.completion_ids).removed
    punished = case.pair.token_rewards < 0
    return int((punished & ~removed).sum()), int((removed & ~punished).sum())


FILTERS = {
    "show=wrong": is_wrong,
    "show=right": lambda c: not is_wrong(c),
    "fix=yes": accepted,
    "fix=no": lambda c: is_wrong(c) and not accepted(c),
    "show=all": lambda c: True,
    "show=all&credit=penalties": lambda c: (c.pair.token_rewards < 0).any(),
    "credit=kept": lambda c: edits(c)[0] > 0,
    "credit=missed": lambda c: edits(c)[1] > 0,
    "share=unseen&show=wrong": lambda c: is_wrong(c) and not c.taught,
    "show=all&q=P12%2F": lambda c: "p12/" in c.pair.attempt.id,
    "now=right": lambda c: is_wrong(c) and c.again and c.again.solution.is_right,
    "now=wrong": lambda c: is_wrong(c) and c.again and not c.again.solution.is_right,
    "now=none": lambda c: is_wrong(c) and not c.again,
    "q=%3C%2FSCRIPT%3E&show=nonsense": is_wrong,
    "q=no such text": lambda c: False,
}


@pytest.mark.parametrize("chosen", FILTERS)
def test_filters_count_what_the_records_say(page, chosen):
    tab, _ = page
    view(tab, chosen)
    assert shown(tab) == sum(bool(FILTERS[chosen](case)) for case in cases())


def test_colours_and_edits_are_those_of_the_records(page):
    tab, _ = page
    view(tab, "show=all&size=100&q=p2/")
    drawn = tab.value(
        "[...document.querySelectorAll('article')].map((a) => [a.dataset.id, "
        "[...a.querySelectorAll('.attempt .t')].map((t) => [Number(t.dataset.r), "
        "Number(t.style.getPropertyValue('--a')), t.classList.contains('neg'), "
        "t.classList.contains('pos'), t.classList.contains('x')])])"
    )
    known = {case.pair.attempt.id: case for case in cases()}
    rewards = np.concatenate([case.pair.token_rewards for case in cases()])
    assert len(drawn) == 4
    for id_, tokens in drawn:
        case = known[id_]
        own = case.pair.token_rewards
        assert [t[0] for t in tokens] == [float(r) for r in own]
        scale = [r / (rewards.min() if r < 0 else rewards.max()) for r in own]
        assert [t[1] for t in tokens] == pytest.approx(scale, abs=6e-5)
        assert [t[2] for t in tokens] == (own < 0).tolist()
        assert [t[3] for t in tokens] == (own > 0).tolist()
        assert any(t[4] for t in tokens) == (is_wrong(case) and accepted(case))


def test_sorting_puts_the_biggest_penalties_first(page):
    tab, _ = page
    view(tab, "sort=penalty&size=10")
    first = tab.value("[...document.querySelectorAll('article')].map((a) => a.dataset.id)")
    sums = {c.pair.attempt.id: float(np.minimum(c.pair.token_rewards, 0).sum()) for c in cases()}
    assert [sums[i] for i in first] == pytest.approx(sorted(sums.values())[:10])


def telling(case):
    """Agreement of penalties and removed tokens times the share that is kept; unseen ones first."""
    kept, missed = edits(case)
    hits = int((case.pair.token_rewards < 0).sum()) - kept
    if not (is_wrong(case) and accepted(case) and hits):
        return 0.0
    agreement = 2 * hits / (2 * hits + kept + missed)
    return agreement * (1 - case.correction.edit_ratio) + (not case.taught)


def test_it_opens_on_the_most_telling_attempts_and_explains_the_first_one(page):
    tab, url = page
    tab.open(url)
    first = tab.value("[...document.querySelectorAll('article')].map((a) => a.dataset.id)")
    of = {c.pair.attempt.id: telling(c) for c in cases()}
    best = sorted(of, key=lambda id_: -of[id_])[:20]  # equal ones in the order of the records
    assert first == best
    assert of[best[0]] > 1
    example = tab.value("document.getElementById('example').textContent")
    assert best[0] in example
    case = next(c for c in cases() if c.pair.attempt.id == best[0])
    kept = edits(case)[0]
    assert f"removed: {(case.pair.token_rewards < 0).sum() - kept}; " in example


def test_rewards_are_told_in_words_too(page):
    tab, _ = page
    case = next(c for c in cases() if c.pair.attempt.id == "p2/8")
    view(tab, "show=all&q=p2/8")
    said = tab.value("document.querySelector('.attempt .sr').textContent")
    assert said.count(", token ") == (case.pair.token_rewards < 0).sum()
    removed = tab.value("document.querySelectorAll('.attempt del').length")
    assert (removed > 0) == accepted(case)
    assert said.count("removed by the correction") <= removed


def test_colours_may_be_those_of_a_probability(page):
    tab, _ = page
    case = next(c for c in cases() if c.pair.attempt.id == "p2/8")
    for by, logprobs in (("grm", case.grm_logprobs), ("old", case.pair.old_logprobs)):
        view(tab, f"show=all&q=p2/8&colour={by}")
        drawn = tab.value(
            "[...document.querySelectorAll('.attempt .heat')].map((t) => "
            "Number(t.style.getPropertyValue('--a')))"
        )
        assert drawn == pytest.approx(1 - np.exp(logprobs), abs=6e-5)


def test_the_trained_policy_is_shown_where_it_was_asked(page):
    tab, _ = page
    for id_ in ("p3/13", "p3/14"):  # asked; not asked
        case = next(c for c in cases() if c.pair.attempt.id == id_)
        view(tab, f"show=all&q={id_}&colour=new")
        drawn = tab.value(
            "[...document.querySelectorAll('.attempt .heat')].map((t) => "
            "Number(t.style.getPropertyValue('--a')))"
        )
        written = tab.value("document.querySelector('.solved .tokens')?.textContent ?? ''")
        again = case.again
        assert bool(again) == (id_ == "p3/13")
        assert drawn == pytest.approx(1 - np.exp(again.logprobs) if again else [], abs=6e-5)
        assert written == (again.solution.text.replace("\n", "\u21b5\n") if again else "")


def test_an_attempt_is_a_picture_that_needs_nothing_else(page):
    tab, _ = page
    view(tab, "show=all&theme=dark")
    for id_ in ("p2/8", "p2/9", "p2/10"):  # with nasty texts; right; corrected
        case = next(c for c in cases() if c.pair.attempt.id == id_)
        picture = ElementTree.fromstring(tab.value(f"svgOf(cases[{id_.split('/')[1]}])"))
        tags = {element.tag.rpartition("}")[2] for element in picture.iter()}
        assert tags <= {"svg", "title", "desc", "rect", "text", "line"}
        words = "".join(picture.itertext()).replace("\u00a0", " ")
        assert case.problem.answer in words
        fills = [e.get("fill") for e in picture.iter() if e.tag.endswith("rect")]
        # the paper, one per token that is rewarded or punished, more where a token is cut
        coloured = (case.pair.token_rewards != 0).sum()
        assert len([fill for fill in fills if fill != "none"]) > coloured
        assert tab.value("document.documentElement.dataset.theme") == "dark"


def test_filters_are_folded_on_a_phone(page):
    tab, url = page
    tab.open(url)
    is_open = "document.getElementById('fold').open"
    assert tab.value(is_open)
    phone = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    tab.do("Emulation.setDeviceMetricsOverride", **phone)
    tab.open(f"{url}#q=p2/8&fix=no")
    assert not tab.value(is_open)
    assert tab.value("document.querySelector('#fold summary').innerText") == "Filters (2 set)"
    assert tab.value("document.documentElement.scrollWidth") == 390
    tab.do("Emulation.clearDeviceMetricsOverride")


def test_solution_text_is_shown_as_text_and_hidden_marks_can_be_seen(page):
    tab, _ = page
    tab.messages.clear()
    view(tab, "show=all&q=p2/8")
    said = tab.value("document.querySelector('article').innerText")
    assert NASTY[0] in said
    assert "⟨U+202E⟩evil⟨U+202C⟩" in said
    assert "⟨U+2028⟩⟨U+2029⟩" in said
    assert "␀␇␛" in said
    assert "\u25cc\u0301" in said
    assert tab.value("document.querySelectorAll('img, iframe, article script').length") == 0
    assert tab.messages == []  # nothing was refused, for nothing was tried


def test_a_token_tells_its_numbers_to_the_keyboard(page):
    tab, _ = page
    view(tab, "show=all&q=p2/8")
    case = next(c for c in cases() if c.pair.attempt.id == "p2/8")
    tab.value("document.querySelector('.attempt .t').focus()")
    tab.press("ArrowRight")
    told = tab.value("document.getElementById('tip').innerText")
    assert "2 of 40" in told
    assert f"{np.exp(case.grm_logprobs[1]):.3f}" in told
    place = case.alternatives.places[0]
    tab.value(f"document.querySelectorAll('.attempt .t')[{place}].focus()")
    told = tab.value("document.getElementById('tip').innerText")
    assert f"“{PIECES[2 + place]}” 0.779, “{PIECES[3 + place]}” 0.135" in told
    tab.value("document.querySelectorAll('.attempt .t')[1].focus()")
    at = int(np.flatnonzero(case.pair.token_rewards[2:] < 0)[0]) + 2
    tab.press("n")
    assert f"{at + 1} of 40" in tab.value("document.getElementById('tip').innerText")
    tab.press("Escape")
    assert tab.value("document.getElementById('tip').hidden")


def test_pages_turn_and_the_address_keeps_what_was_chosen(page):
    tab, url = page
    tab.open(url)
    tab.value("document.querySelector('[data-go=\"1\"]').click()")
    tab.value("document.getElementById('theme').value = 'dark'")
    tab.value("document.getElementById('theme').dispatchEvent(new Event('change'))")
    assert tab.value("location.hash") == "#page=2&theme=dark"
    tab.open(f"{url}#page=2&theme=dark")  # as from a link
    assert tab.value("document.documentElement.dataset.theme") == "dark"
    assert tab.value("document.getElementById('where').textContent").startswith("21 to 40 of")
    tab.value("document.getElementById('reset').click()")
    assert tab.value("location.hash") == "#theme=dark"
