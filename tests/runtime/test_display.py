"""Progress: a bar on a terminal, and lines elsewhere."""

import io

import pytest

from rlmec.runtime import display
from rlmec.runtime.display import Bar, say, within


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(display, "time", made)
    return made


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_what_is_said_is_one_line(capsys):
    say("policy: resumes")
    assert capsys.readouterr().out == "policy: resumes\n"


def test_without_a_terminal_a_line_every_twenty_seconds(clock, capsys):
    bar = Bar("sample", 50, "parts", wanted=True)
    for second in range(1, 50):
        clock.now = 100.0 + second
        bar.update(second, "3 tokens/s" if second == 40 else "")
    bar.close()
    assert capsys.readouterr().out == ("  sample: 20/50 parts\n  sample: 40/50 parts, 3 tokens/s\n")


def test_short_work_says_nothing(clock, capsys):
    bar = Bar("sample", 2, "parts", wanted=True)
    bar.update(1)
    clock.now += display.LINE_SECONDS - 0.1
    bar.update(2)
    bar.close()
    assert capsys.readouterr().out == ""


def test_on_a_terminal_a_bar_shows_name_counts_and_text(monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stdout", terminal)
    bar = Bar("policy", 8, "steps", wanted=True, done=3)
    bar.update(5, "loss 0.125")
    bar.close()
    bar.close()  # twice does no harm
    shown = terminal.getvalue()
    assert "policy" in shown
    assert "5/8" in shown
    assert "steps" in shown
    assert "loss 0.125" in shown


def test_a_bar_that_is_not_wanted_writes_lines_on_a_terminal_too(clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    bar = Bar("policy", 8, "steps", wanted=False)
    clock.now += 30
    bar.update(5)
    bar.close()
    assert terminal.getvalue() == "  policy: 5/8 steps\n"


def test_long_units_show_how_far_they_are(clock, capsys):
    bar = Bar("evaluate", 2, "parts", wanted=True)
    bar.update(1, "3 s")
    for done in range(0, 512, 64):
        clock.now += 10
        within(done, 512, "completions")
    bar.close()
    clock.now += 60
    within(512, 512, "completions")  # no bar is open
    assert capsys.readouterr().out == (
        "  evaluate: 1/2 parts, 3 s, 64/512 completions\n"
        "  evaluate: 1/2 parts, 3 s, 192/512 completions\n"
        "  evaluate: 1/2 parts, 3 s, 320/512 completions\n"
        "  evaluate: 1/2 parts, 3 s, 448/512 completions\n"
    )


def test_the_innermost_bar_shows_its_unit(clock, capsys):
    outer = Bar("policy", 8, "steps", wanted=True)
    inner = Bar("judge", 4, "verdicts", wanted=True)
    clock.now += 30
    within(1, 2, "rows")
    inner.close()
    within(2, 2, "rows")
    outer.close()
    assert capsys.readouterr().out == (
        "  judge: 0/4 verdicts, 1/2 rows\n  policy: 0/8 steps, 2/2 rows\n"
    )
