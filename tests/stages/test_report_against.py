"""Which run `report.against` names, and what two runs side by side say."""

import json
from types import SimpleNamespace

import pytest

from rlmec.records import Attempt
from rlmec.report.tables import Line
from rlmec.settings.binding import ConfigurationError
from rlmec.stages.report_against import (
    both_fits,
    different_settings,
    find_other,
    read_other,
    side_by_side,
)
from rlmec.store.artifacts import ArtifactStore
from rlmec.store.tables import write_table

REPORT, OLD, OWN, THEIRS, POLICY = ("a" * 20, "b" * 20, "c" * 20, "d" * 20, "e" * 20)
FACTS = [("seed", "1"), ("command", "python train.py")]


def attempt(problem, *, right):
    common = {"prompt_ids": [1], "completion_ids": [2], "logprobs": [], "text": "t"}
    verdict = "right" if right else "wrong"
    return Attempt(problem, problem, verdict=verdict, clipped=False, tokenizer="t", **common)


def line(accuracy):
    return Line("policy", accuracy, accuracy, accuracy, 6, 30, 1.0, 0.5)


def evaluation(store, fp, rights, task="sums"):
    work = store.work("evaluate", fp)
    work.mkdir(parents=True)
    attempts = [attempt(f"p{i}", right=right) for i, right in enumerate(rights)]
    write_table(work / "attempts.parquet", attempts, Attempt)
    return store.commit("evaluate", fp, {"settings": {"task": {"name": task}}, "seconds": 2.0})


def report(store, fp, content):
    work = store.work("report", fp)
    work.mkdir(parents=True)
    (work / "table.json").write_text(json.dumps(content))
    parents = {"evaluate/policy": THEIRS, "policy/policy": POLICY}
    return store.commit("report", fp, {"parents": parents})


@pytest.fixture
def store(tmp_path):
    store = ArtifactStore(tmp_path / "store")
    lines = [vars(line(0.5))]
    report(store, REPORT, {"facts": [["seed", "2"], FACTS[1]], "lines": lines, "credit": {}})
    report(store, OLD, {"lines": lines, "credit": {}})
    return store


def job(store, against):
    settings = SimpleNamespace(report=SimpleNamespace(against=against and str(against)))
    return SimpleNamespace(
        settings=settings, store=store, uses=SimpleNamespace(hold=lambda stage, fp: None)
    )


def test_a_report_is_found_by_its_folder_and_by_that_of_its_run(store, tmp_path):
    assert find_other(job(store, None)) is None
    folder = store.final("report", REPORT)
    assert find_other(job(store, folder)).fingerprint == REPORT
    stages = [{"name": "policy", "artifact": "x"}, {"name": "report", "artifact": str(folder)}]
    (tmp_path / "summary.json").write_text(json.dumps({"stages": stages}))
    assert find_other(job(store, tmp_path)).fingerprint == REPORT


def test_what_is_no_report_of_this_store_is_refused(store, tmp_path):
    elsewhere = ArtifactStore(tmp_path / "elsewhere")
    found = report(elsewhere, REPORT, {"facts": [], "lines": [], "credit": {}})
    for folder, words in (
        (tmp_path, "neither the folder of a run"),
        (found.path, "neither the folder of a run"),
        (store.final("report", OWN), "no report in"),
        (store.final("report", OLD), "older version"),
    ):
        with pytest.raises(ConfigurationError, match=rf"report\.against: .*{words}"):
            find_other(job(store, folder))
    renamed = [vars(line(0.5)) | {"name": "rlmec"}]
    former = report(store, "f" * 20, {"facts": FACTS, "lines": renamed, "credit": {}})
    with pytest.raises(ConfigurationError, match="older version"):
        find_other(job(store, former.path))
    (tmp_path / "summary.json").write_text(json.dumps({"stages": []}))
    with pytest.raises(ConfigurationError, match="has no report"):
        find_other(job(store, tmp_path))


def test_two_runs_side_by_side(store):
    """Both solve p0; the other one solves p1 to p5 as well: 5 of 5 give p = 2 / 2 ** 5."""
    theirs = evaluation(store, THEIRS, [True] * 6)
    own = evaluation(store, OWN, [True] + [False] * 5)
    run = job(store, store.final("report", REPORT))
    other = read_other(run, find_other(run))
    assert other.parents == {"evaluate/policy": theirs}  # the policy is removed

    found = side_by_side(other, FACTS, [line(0.25)], {}, {"evaluate/policy": own})
    assert found.link == f"../{REPORT}/index.html"
    facts, accuracy, seconds = found.tables  # no setting differs
    assert facts.rows == [["seed", "1", "2"]]
    shown = ["25.0 % (25.0 to 25.0)", "50.0 % (50.0 to 50.0)"]
    assert accuracy.rows == [["policy", *shown, "-25.0", "0.062"]]
    assert seconds.rows == [["evaluate, policy", "2.0", "2.0"]]
    assert [name for name, _ in found.credit] == ["this run", "other run"]
    assert both_fits(other, {}, "policy") == {}

    same = side_by_side(other, FACTS, [line(0.25)], {}, {"evaluate/policy": theirs})
    assert same.tables[-1].rows == [["evaluate, policy", "2.0", "the same artifact"]]


def test_another_task_has_no_paired_test_and_shows_as_a_setting(store):
    evaluation(store, THEIRS, [True] * 6)
    own = evaluation(store, OWN, [False] * 6, task="products")
    run = job(store, store.final("report", REPORT))
    other = read_other(run, find_other(run))
    parents = {"evaluate/policy": own}
    assert different_settings(parents, other.parents) == [["task.name", "products", "sums"]]
    tables = side_by_side(other, FACTS, [line(0.25)], {}, parents).tables
    assert tables[2].rows[0][-1] == ""
