"""docs/metrics.md names every metric that the stages write, and none that they do not."""

import ast
import re
from pathlib import Path
from threading import Event

import numpy as np

from rlmec.evaluation.readings import figures
from rlmec.method.acceptance import REASONS
from rlmec.method.credit import CreditItem, credit_quality
from rlmec.records import Attempt, Problem
from rlmec.tasks.arithmetic import ArithmeticTask
from rlmec.teachers.base import REFUSALS
from rlmec.teachers.budget import (
    Budget,
    Hold,
    Ledger,
    Tokens,
)
from rlmec.teachers.server_calls import AttemptState

ROOT = Path(__file__).resolve().parents[2]
PREFIXES = "train val dev sample teach score grm policy eval report"
NAME = re.compile(rf"({'|'.join(PREFIXES.split())})/[\w/@<>]+")
SOURCES = [ROOT / "rlmec/training/callbacks.py"]
SOURCES += [
    p for room in ("stages", "pipeline", "training") for p in (ROOT / "rlmec" / room).glob("*.py")
]


def plain(name):
    """A name without what its placeholders are called."""
    return re.sub(r"<[^>]*>", "<>", name)


def text_of(node):
    """The text of a literal, of an f-string with <> for its values; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "<>" for v in node.values)
    return None


def written_out(tree):
    """Names that stand in a file as a whole; `grm/<>` is no name, nor is `policy/dropped/`."""
    texts = {text_of(node) for node in ast.walk(tree)} - {None}
    return {t for t in texts if NAME.fullmatch(t) and not re.fullmatch(r".*/|\w+(/<>)+", t)}


def keys_in(tree, function):
    """Keys of the dict literals inside all functions of a name."""
    return {
        text_of(key)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == function
        for inner in ast.walk(node)
        if isinstance(inner, ast.Dict)
        for key in inner.keys
    } - {None}


def produced():
    trees = {p.name: ast.parse(p.read_text(encoding="utf-8")) for p in SOURCES}
    assert len(trees) > 10
    out = set().union(*map(written_out, trees.values()))
    for tree in trees.values():
        out |= {f"train/{key}" for key in keys_in(tree, "step_metrics")}
    metric = ast.parse((ROOT / "rlmec/evaluation/accuracy.py").read_text(encoding="utf-8"))
    shares = [("dev", keys_in(metric, "compute"))]
    shares += [("grm", keys_in(trees["judges.py"], "rewriting_judge"))]
    for prefix, found in shares:
        assert found
        out |= {f"{prefix}/{key}" for key in found - {"count"}}
    asked = AttemptState(Hold(Ledger(Budget(), Tokens()), Tokens()), Event())
    counted = [*asked.counts, "input_tokens", "output_tokens", "cost"]
    out |= {f"teach/{name}" for name in (*REFUSALS, *counted)}
    for stage in ("teach", "score"):
        out |= {f"{stage}/{reason}" for reason in REASONS} | {f"{stage}/edit_ratio/median"}
    return out | evaluated() | credited()


def evaluated():
    common = {"problem_id": "p", "prompt_ids": [1], "completion_ids": [1], "logprobs": [0.0]}
    common |= {"text": "1", "clipped": False, "tokenizer": "t", "verdict": "right"}
    attempts = [Attempt(id=f"p/{i}", **common) for i in range(2)]
    problems = [Problem("p", "1?", "1", kind="sum")]
    names = figures(attempts, problems, ArithmeticTask(), ["flexible", "authors"])
    names |= dict.fromkeys(keys_in(evaluating(), "build"))
    plain_names = {re.sub("/sum", "/<>", re.sub("@.+", "@<>", name)) for name in names}
    return {f"eval/<>/{name}" for name in plain_names}


def evaluating():
    return ast.parse((ROOT / "rlmec/stages/evaluate.py").read_text(encoding="utf-8"))


def credited():
    """Every share has a denominator: the first of two tokens is punished and removed."""
    rewards, removed = np.array([-1.0, 0.0]), np.array([True, False])
    item = CreditItem("a", rewards, np.array([-1.0, -2.0]), removed, 0)
    return {f"grm/{name}" for name in credit_quality([item]).metrics()}


def test_the_page_names_what_is_written_and_nothing_else():
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    named = {plain(name) for name in re.findall(r"`([^`]+)`", page) if NAME.fullmatch(name)}
    made = {plain(name) for name in produced()}
    assert len(made) > 60
    assert sorted(made - named) == []
    assert sorted(named - made) == []
