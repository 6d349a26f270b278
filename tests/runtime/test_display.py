"""Progress: a bar on a terminal, and lines elsewhere."""

import io
import re

import pytest

from rlmec.runtime import display
from rlmec.runtime.display import Bar, say, stretch, within


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


WARNING = "  warning: copies: 38 % of /a/long-path/that/nobody/breaks.jsonl are copied (setting: s)"


def test_a_long_line_is_broken_between_words_on_a_terminal_alone(monkeypatch, capsys):
    say(WARNING)
    assert capsys.readouterr().out == f"{WARNING}\n"
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    say(WARNING)
    say("  short")
    assert terminal.getvalue().splitlines() == [
        "  warning: copies: 38 % of",
        "    /a/long-path/that/nobody/breaks.jsonl",
        "    are copied (setting: s)",
        "  short",
    ]


def test_without_a_terminal_a_line_every_twenty_seconds(clock, capsys):
    bar = Bar("sample", 50, "parts", wanted=True)
    for second in range(1, 50):
        clock.now = 100.0 + second
        bar.update(second, "3 tokens/s" if second == 40 else "")
    bar.close()
    assert capsys.readouterr().out == (
        "  sample: 20/50 parts, 30 s left\n  sample: 40/50 parts, 3 tokens/s, 10 s left\n"
    )


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
    assert terminal.getvalue() == "  policy: 5/8 steps, 18 s left\n"


def test_long_units_show_how_far_they_are(clock, capsys):
    bar = Bar("evaluate", 2, "parts", wanted=True, at_once=1)
    bar.update(1, "3 s")
    for done in range(0, 512, 64):
        clock.now += 10
        within(done, 512, "completions")
    bar.close()
    clock.now += 60
    within(512, 512, "completions")  # no bar is open
    assert capsys.readouterr().out == (
        "  evaluate: 1/2 parts, 64/512 completions, 3 s, 16 s left\n"
        "  evaluate: 1/2 parts, 192/512 completions, 3 s, 18 s left\n"
        "  evaluate: 1/2 parts, 320/512 completions, 3 s, 14 s left\n"
        "  evaluate: 1/2 parts, 448/512 completions, 3 s, 5.3 s left\n"
    )


def test_kinds_of_work_on_a_unit_move_the_bar_one_after_the_other():
    bar = Bar("score", 4, "parts", wanted=False, at_once=2)
    bar.update(1)
    with stretch(0.0, 0.25):
        within(1, 2, "rows scored")
        assert bar._begun == 0.25  # of two units that are in work
    with stretch(0.25, 1.0):
        within(0, 3, "rewrites")
        assert bar._begun == 0.5
        within(0, 3, "rewrites", 0.5)
        assert bar._begun == 1.25
    bar.update(3)
    within(1, 1, "rows scored")
    assert bar._begun == 1  # only one unit is left
    bar.close()


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_bar_is_one_line_whatever_the_width(columns, monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("rich._console", None)  # which has read the width already
    bar = Bar("evaluate (continued_sft, svamp)", 12, "parts", wanted=True)
    bar.update(5, "epoch 12.3, loss 0.125, dev 0.250, rewritten 0.125, 12,345 tokens/s")
    bar.close()
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue()).splitlines()
    assert any("5/12 parts" in line for line in lines)
    assert max(map(len, lines)) <= columns


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (7260, "2 h 01 min"),
    ],
)
def test_durations(seconds, text):
    assert display.duration(seconds) == text


def test_the_log_holds_what_was_said_and_what_was_only_logged(tmp_path, capsys):
    path = tmp_path / "train.log"
    say("before")
    with display.logged(path), display.logged(path, "rank 1"):
        say("one\ntwo")
        display.say_error("error: three")
        display.log("grm: four %")
    say("after")
    shown = capsys.readouterr()
    assert shown.out == "before\none\ntwo\nafter\n"
    assert shown.err == "error: three\n"
    lines = path.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert [line[20:] for line in lines[0::2]] == ["one", "two", "error: three", "grm: four %"]
    assert lines[1].endswith(" [rank 1] one")


def test_a_log_that_cannot_be_written_ends_no_run(tmp_path, capsys):
    with display.logged(tmp_path / "none" / "train.log"):
        say("goes on")
    assert capsys.readouterr() == ("goes on\n", "")


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


EDITS = [("kept", "7 + 4 =\n"), ("deleted", "12"), ("inserted", "11\x1b[2J"), ("kept", ".")]
MARKED = "    7 + 4 =\n    [-12-]{+11\ufffd[2J+}.\n"


def test_edits_are_marked_where_there_is_no_terminal(capsys):
    display.say_edits(EDITS)
    assert capsys.readouterr().out == MARKED


@pytest.mark.parametrize("no_color", ["", "1"])
def test_edits_are_coloured_on_a_terminal(no_color, tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr("sys.stdout", terminal)
    with display.logged(tmp_path / "log"):
        display.say_edits(EDITS)
    shown = terminal.getvalue()
    if no_color:
        assert shown == MARKED
    else:
        assert "\x1b[9;31m12\x1b[0m\x1b[32m11\ufffd[2J\x1b[0m." in shown
    assert [line[20:] for line in (tmp_path / "log").read_text().splitlines()] == [
        *MARKED.splitlines()
    ]


def test_tables_are_drawn_on_a_terminal_alone(tmp_path, monkeypatch, capsys):
    table = display.markdown_table(["model", "accuracy"], [["start", "29.2 %"]])
    display.say_markdown(table)
    assert capsys.readouterr().out == table + "\n"

    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    with display.logged(tmp_path / "log"):
        display.say_markdown(table)
    assert "|" not in terminal.getvalue()
    assert "29.2 %" in terminal.getvalue()
    assert "| start | 29.2 % |" in (tmp_path / "log").read_text()
