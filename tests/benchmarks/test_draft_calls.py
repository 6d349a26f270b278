"""The table of passes of a rewrite, on two solutions."""

import json

from small_models import tokenizer

from benchmarks import draft_calls
from benchmarks.draft_calls import Text, looked_up, rewritten

ROW = {
    "question": "Ann has 3 pens and buys 5. How many has she?",
    "ground_truth": "3 + 5 = 8\nAnn has 8 pens.\nA: 8",
    "right": {"solution": "3 + 5 = 8\nA: 8", "is_correct": True},
    "wrong": {"solution": "3 + 5 = 9\nAnn has 9 pens.\nA: 9", "is_correct": False},
    "far": {"solution": "She sells all of them, so none is left.\nA: 0", "is_correct": False},
}


def test_every_case_has_a_line(tmp_path, monkeypatch, capsys):
    path = tmp_path / draft_calls.FILE
    path.parent.mkdir()
    path.write_text(json.dumps(ROW) + "\n")
    monkeypatch.setenv("RLMEC_DATA", str(tmp_path))
    monkeypatch.setattr(draft_calls, "load_tokenizer", lambda folder: tokenizer())
    assert draft_calls.main(["folder", "1"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    begins = next(at for at, line in enumerate(lines) if line.startswith("| case"))
    assert len(lines[begins:]) == 2 + 12 + 1 + 6 + 1
    near = next(line for line in lines if "near correction, reference hidden" in line)
    assert near.count("(") == 4


def test_counts_worked_by_hand():
    """1 2 3 4 5 6 with 9 for 4: the second pass feeds 9 and the guess 5 6, and 6 ends the text."""
    made = rewritten([Text([8], [1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 5, 6])], 10)
    assert (made.calls, made.fed, made.written) == (2, 2, 6)


def test_look_up_worked_by_hand():
    """The prompt's 1 2 3 4 5 after 1: the first pass gives 1, the second 2 3 and 4, the third 5."""
    made = looked_up(Text([1, 2, 3, 4, 5, 7], [], [1, 2, 3, 4, 5]), 2)
    assert (made.calls, made.written) == (3, 5)
