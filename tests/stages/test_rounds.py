"""Online: a later round samples from the policy that the round before has trained, and trains it
on; what is made once is shared."""

import json
from pathlib import Path

import pytest
from small_runs import run, settings_of, start_model

from rlmec.data.row import Row
from rlmec.lm.chunked_head import evaluating
from rlmec.lm.logprobs import score_rows
from rlmec.pipeline import models
from rlmec.pipeline.chain import Run
from rlmec.records import Attempt, Score
from rlmec.report.tables import RoundLine, rounds_table
from rlmec.runtime.ranks import Ranks
from rlmec.settings.binding import ConfigurationError
from rlmec.stages import addresses, flow
from rlmec.store.tables import read_table
from rlmec.training.policy_module import PolicyModule

ONLINE = ("rounds=2", "policy.optimizer.lr=0.01")
ROUND = ["sample", "teach", "grm", "score", "policy"]


def stages(root, model, *overrides):
    """The stages of a run in the order they were made or found: (name, round) -> entry."""
    run(root, model, *overrides)
    summary = json.loads((root / "outputs" / "run" / "summary.json").read_text())
    return {(s["name"], s["variant"], s["round"]): s for s in summary["stages"]}


def manifest(entry):
    return json.loads((Path(entry["artifact"]) / "manifest.json").read_text())


@pytest.fixture(scope="module")
def online(tmp_path_factory):
    """A finished run of two rounds with its report."""
    root = tmp_path_factory.mktemp("online")
    model = start_model(root / "start")
    return root, model, stages(root, model, *ONLINE)


def test_the_addresses_that_are_told_are_those_of_all_rounds(online):
    """What stage=prune keeps: two rounds have stages of the same names."""
    root, model, found = online
    told = addresses(settings_of(root, model, *ONLINE, "stage=report"))
    made = {(s["name"], Path(s["artifact"]).name) for s in found.values()}
    assert made <= {(named.stage, named.fingerprint) for named in told}
    assert len({named.title for named in told}) == len(told)


def test_a_round_starts_from_the_policy_of_the_one_before(online):
    _, _, found = online
    assert [key for key in found if key[0] in ROUND] == [
        *((name, "", 1) for name in ROUND),
        *((name, "", 2) for name in ROUND if name != "grm"),
    ]
    first = manifest(found["policy", "", 1])["fingerprint"]
    for name in ("sample", "teach", "score", "policy"):
        later = manifest(found[name, "", 2])
        assert later["parents"]["policy"] == first, name
        assert later["settings"]["round"] == 2
        assert "round" not in manifest(found[name, "", 1])["settings"]
    assert (
        manifest(found["score", "", 2])["parents"]["grm"]
        == manifest(found["grm", "", 1])["fingerprint"]
    )

    one, two = (
        read_table(Path(found["sample", "", n]["artifact"]) / "attempts.parquet", Attempt)
        for n in (1, 2)
    )
    assert {a.problem_id for a in one} == {a.problem_id for a in two}, "all problems in each"
    assert [a.completion_ids for a in one] != [a.completion_ids for a in two]


def test_old_log_probs_of_a_later_round_are_those_of_its_start(online):
    root, model, found = online
    settings = settings_of(root, model, *ONLINE)
    start = models.LanguageModel(f"{found['policy', '', 1]['artifact']}/model", settings)
    module = PolicyModule(start.network(), pad_id=start.codec.pad_id, end_ids=start.codec.end_ids)
    attempts = read_table(Path(found["sample", "", 2]["artifact"]) / "attempts.parquet", Attempt)
    scores = read_table(Path(found["score", "", 2]["artifact"]) / "scores.parquet", Score)
    rows = [
        Row.likelihood(a.id, [*a.prompt_ids, *a.completion_ids], len(a.prompt_ids))
        for a in attempts[:4]
    ]
    with evaluating(module.net):
        expected = score_rows(module.net, rows, start.codec.pad_id)
    for score, values in zip(scores, expected, strict=False):
        assert score.old_logprobs == pytest.approx(values, abs=1e-4)


def test_fewer_rounds_are_found_in_more(online):
    root, model, found = online
    one = stages(root, model, "policy.optimizer.lr=0.01", "stage=evaluate")
    assert not [key for key, entry in one.items() if entry["made"]]
    assert one["policy", "", 1]["artifact"] == found["policy", "", 1]["artifact"]
    assert one["evaluate", "", 1]["artifact"] == found["evaluate", "round_1", 1]["artifact"]


def test_the_report_has_every_round(online):
    _, _, found = online
    folder = Path(found["report", "", 1]["artifact"])
    table = json.loads((folder / "table.json").read_text())
    assert [line["name"] for line in table["lines"]] == ["start", "round_1", "policy"]
    assert [line["updates"] for line in table["lines"]] == [None, 2, 4], "of all rounds until then"
    rounds = table["rounds"]
    assert [r["round"] for r in rounds] == [1, 2]
    for r in rounds:
        sampled = found["sample", "", r["round"]]
        assert r["attempts"] == sampled["rows"]
        assert r["sampled_accuracy"] == sampled["metrics"]["sample/accuracy"]
        assert r["updates"] == 2
    precisions = [r["credit_precision"] for r in rounds]
    assert precisions[-1] == table["credit"]["grm/credit_precision"] != precisions[0]
    assert [r["accuracy"] for r in rounds] == [line["accuracy"] for line in table["lines"][1:]]
    assert "| round | attempts |" in (folder / "table.md").read_text()


def test_the_grm_is_trained_on_where_it_is_asked_for(online):
    root, model, found = online
    later = stages(root, model, *ONLINE, "grm.later_steps=1", "stage=policy")
    made = [key[0] for key, entry in later.items() if entry["made"]]
    assert made == ["grm", "score", "policy"], "the second round's, from its own corrections"
    grm = manifest(later["grm", "", 2])
    assert grm["parents"]["grm"] == manifest(found["grm", "", 1])["fingerprint"]
    assert grm["parents"]["teach"] == manifest(found["teach", "", 2])["fingerprint"]
    assert (grm["settings"]["grm"]["steps"], grm["rows"]) == (1, 1)
    assert manifest(later["score", "", 2])["parents"]["grm"] == grm["fingerprint"]


def test_one_schedule_of_the_rate_goes_over_all_rounds(online):
    """Two rounds of 2 steps: the rates of the first end where those of the second begin."""
    root, model, found = online
    whole = ("policy.one_schedule=true", "trainer.log_every_n_steps=1", "stage=policy")
    one = stages(root, model, *ONLINE, *whole)
    assert next(key for key, entry in one.items() if entry["made"]) == ("policy", "", 1)
    rates = []
    for number in (1, 2):
        entry = one["policy", "", number]
        assert manifest(entry)["settings"]["policy"]["schedule"] == [number, 2]
        assert "schedule" not in manifest(found["policy", "", number])["settings"]["policy"]
        curve = (Path(entry["artifact"]) / "curve.jsonl").read_text().splitlines()
        rates += [json.loads(line)["train/learning_rate"] for line in curve]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[2] > 0
    alone = stages(root, model, "policy.optimizer.lr=0.01", *whole)
    assert not alone["policy", "", 1]["made"], "one round has one schedule"


def test_a_variant_goes_through_rounds_of_its_own(online, tmp_path):
    root, model, _ = online
    changes = "report.compare={sft: {steps: 3}}"
    settings = settings_of(root, model, *ONLINE, changes)
    last = flow.variants(Run(settings, Ranks(), tmp_path))["sft"][-1].policy
    assert (last.title, last.node.steps) == ("policy (sft, round 2)", 3)
    sample = last.parents["sample"]
    assert sample.title == "sample (sft, round 2)"
    before = sample.parents["policy"]
    assert before.title == "policy (sft)"
    assert before.parents["sample"].title == "sample", "the first round's is the same for all"
    assert [each.number for each in flow.rounds(Run(settings, Ranks(), tmp_path))] == [1, 2]
    taken = settings_of(root, model, "report.compare={round_1: {steps: 3}}")
    with pytest.raises(ConfigurationError, match="'round_1' is taken"):
        flow.variants(Run(taken, Ranks(), tmp_path))


@pytest.mark.parametrize("given", ["rounds=0", "grm.later_steps=0"])
def test_numbers_below_one_are_refused(online, given):
    root, model, _ = online
    with pytest.raises(ConfigurationError, match="at least 1 is needed"):
        settings_of(root, model, given)


def test_the_table_leaves_empty_what_was_not_measured():
    lines = [
        RoundLine(1, 40, 0.5, 12, 0.25, 30, 0.6, 0.625),
        RoundLine(2, 38, None, 9, None, 30, None, None),
    ]
    assert rounds_table(lines).markdown().splitlines()[2:] == [
        "| 1 | 40 | 50.0 % | 12 | 0.250 | 30 | 60.0 % | 62.5 % |",
        "| 2 | 38 |  | 9 |  | 30 |  |  |",
    ]


# --- fresh problems, and a teacher that falls silent ---

FRESH = (*ONLINE, "sample.fresh=true", "sample.max_problems=10", "teach.rounds=1")
FRESH += (
    "policy.imitated_rounds=1",
    "policy.keep_uncorrected=true",
    "report.compare=null",
    "stage=policy",
)


def test_a_later_round_has_fresh_problems_and_no_teacher(online, tmp_path):
    _, model, plain = online
    found = stages(tmp_path, model, *FRESH)
    problems = [
        {a.problem_id for a in read_table(Path(path) / "attempts.parquet", Attempt)}
        for path in (found["sample", "", n]["artifact"] for n in (1, 2))
    ]
    assert [len(each) for each in problems] == [10, 10]
    assert not problems[0] & problems[1]
    assert found["teach", "", 1]["rows"] > 0 == found["teach", "", 2]["rows"]
    assert found["policy", "", 2]["rows"] == 2, "trained, although nothing was taught"
    assert (
        manifest(found["policy", "", 1])["settings"].keys()
        == manifest(plain["policy", "", 1])["settings"].keys()
    )
    assert manifest(found["policy", "", 2])["settings"]["policy"]["imitates_corrections"] is False


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("sample.fresh=true",), "sample.fresh: say with sample.max_problems"),
        (("teach.rounds=1", "grm.later_steps=5"), "first 1 alone"),
        (("sample.fresh=true", "sample.max_problems=9000"), "2 rounds of 9000 problems need 18000"),
    ],
)
def test_rounds_that_cannot_be_made_are_refused_at_the_start(online, tmp_path, overrides, words):
    _, model, _ = online
    with pytest.raises(ValueError, match=words):
        run(tmp_path, model, *ONLINE, *overrides)
    assert not list((tmp_path / "artifacts").glob("sample/*/manifest.json"))
