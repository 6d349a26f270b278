"""What a store holds, what may be removed from it, and that nothing in use is removed.

Stores are made by the store's own commit, and grow old by their files' times.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rlmec.runtime import store_commands
from rlmec.runtime.store_commands import Named, age_of, size_of
from rlmec.settings.schema import PruneSettings
from rlmec.store import atomic, prune
from rlmec.store.artifacts import ArtifactStore
from rlmec.store.inventory import dependents, list_entries
from rlmec.store.locks import (
    Uses,
    is_locked,
    lock_alone,
    signed,
    use_file,
)
from rlmec.store.prune import (
    DAY,
    reasons_to_keep,
    removal_order,
    remove,
)

KEEPING = {"keep_days": 14.0, "work_days": 7.0, "dry_run": True}
ROOT = Path(__file__).resolve().parents[2]
SAMPLE, TEACH, POLICY = ("a" * 20, "b" * 20, "c" * 20)


def aged(path: Path, days: float) -> None:
    """Makes everything below `path`, and the use file of an artifact there, `days` old."""
    then = time.time() - days * DAY
    use = use_file(path.parents[1], path.parent.name, re.sub(r"\.\w+-", "", path.name)[:20])
    for found in (*path.rglob("*"), path, use):
        if found.exists():
            os.utime(found, (then, then))


def made(root, stage, fp, days=0.0, parents=None, settings=None, text="rows", **more):
    store = ArtifactStore(root)
    store.work(stage, fp).mkdir(parents=True)
    (store.work(stage, fp) / "table.txt").write_text(text)
    manifest = {"rows": 1, "parents": parents or {}, "settings": settings or {}, **more}
    manifest.setdefault("variant", "")
    path = store.commit(stage, fp, manifest).path
    aged(path, days)
    return path


def chain(root, days=0.0):
    """sample <- teach <- policy, all of one age."""
    made(root, "sample", SAMPLE, days)
    made(root, "teach", TEACH, days, {"sample": SAMPLE})
    return made(root, "policy", POLICY, days, {"sample": SAMPLE, "teach": TEACH})


def kept(root, named=(), mentioned=(), **settings):
    """Fingerprints with the reasons for which they are kept."""
    found = list_entries(root)
    why = reasons_to_keep(
        found, named, mentioned, PruneSettings(**(KEEPING | settings)), time.time()
    )
    return {e.fingerprint: why[e.path] for e in found if e.path in why}


# ---- what is seen ---------------------------------------------------------------------------


def test_artifacts_are_seen_with_what_they_were_made_from(tmp_path):
    chain(tmp_path, days=3)
    found = {e.fingerprint: e for e in list_entries(tmp_path)}
    assert [e.title for e in found.values()] == [
        f"sample/{SAMPLE}",
        f"teach/{TEACH}",
        f"policy/{POLICY}",
    ]
    assert {e.state for e in found.values()} == {"whole"}
    assert found[POLICY].links == {SAMPLE, TEACH}
    below = {fp: [e.stage for e in es] for fp, es in dependents(list(found.values())).items()}
    assert below == {SAMPLE: ["teach", "policy"], TEACH: ["policy"]}
    manifest = (tmp_path / "sample" / SAMPLE / "manifest.json").stat().st_size
    assert found[SAMPLE].size == manifest + len("rows")
    assert 2.9 * DAY < time.time() - found[SAMPLE].used < 3.1 * DAY


def test_a_path_in_the_settings_or_of_an_adapter_is_a_link(tmp_path):
    made(tmp_path, "policy", POLICY)
    made(tmp_path, "policy", "d" * 20, settings={"grm": {"model": f"x/policy/{POLICY}/model"}})
    adapter = made(tmp_path, "grm", "e" * 20)
    (adapter / "model").mkdir()
    base = {"base_model_name_or_path": f"/elsewhere/policy/{POLICY}/model"}
    (adapter / "model" / "adapter_config.json").write_text(json.dumps(base))
    links = {e.fingerprint: e.links for e in list_entries(tmp_path)}
    assert links == {POLICY: frozenset(), "d" * 20: {POLICY}, "e" * 20: {POLICY}}


def test_every_state_is_told_apart(tmp_path):
    store = ArtifactStore(tmp_path)
    made(tmp_path, "sample", "1" * 20)
    uses = Uses(tmp_path)
    for fp in ("2" * 20, "3" * 20):
        (store.work("grm", fp) / "checkpoints").mkdir(parents=True)
        (store.work("grm", fp) / "checkpoints" / "step-00000050.ckpt").write_text("x")
        (store.work("grm", fp) / "parts" / "old" / "part-000000").mkdir(parents=True)
    uses.hold("grm", "2" * 20)
    uses.sign("grm", "2" * 20)
    made(tmp_path, "score", "4" * 20)
    (tmp_path / "score" / ("4" * 20) / "manifest.json").write_text("{")
    (tmp_path / "score" / (".gone-" + "5" * 20 + "-17")).mkdir()
    (tmp_path / "answers" / "ab").mkdir(parents=True)  # a teacher's cache is no artifact
    found = {e.fingerprint[0]: e for e in list_entries(tmp_path)}
    del uses
    states = {k: e.state for k, e in found.items()}
    assert states == dict(zip("12345", states.values(), strict=True)) | {
        "1": "whole",
        "2": "under way",
        "3": "left over",
        "4": "damaged",
        "5": "going",
    }
    assert found["2"].note.startswith(f"step 50, 1 parts by process {os.getpid()} on ")
    assert (found["3"].note, found["2"].held, found["3"].held) == ("step 50, 1 parts", True, False)
    assert "JSONDecodeError" in found["4"].note


def test_looking_changes_nothing(tmp_path):
    chain(tmp_path, days=30)
    before = {p: (p.stat().st_mtime_ns, p.is_dir()) for p in tmp_path.rglob("*")}
    list_entries(tmp_path)
    assert {p: (p.stat().st_mtime_ns, p.is_dir()) for p in tmp_path.rglob("*")} == before


# ---- what is kept ---------------------------------------------------------------------------


def test_what_nothing_needs_goes_and_the_young_stay(tmp_path):
    chain(tmp_path, days=20)
    assert kept(tmp_path, keep_days=14) == {}
    assert set(kept(tmp_path, keep_days=21)) == {SAMPLE, TEACH, POLICY}


def test_parents_of_what_is_kept_stay_to_the_first(tmp_path):
    chain(tmp_path, days=20)
    aged(tmp_path / "policy" / POLICY, days=1)
    made(tmp_path, "score", "d" * 20, 20, {"sample": SAMPLE})
    why = kept(tmp_path, keep_days=14)
    assert why[POLICY] == "used within 14 days"
    assert why[TEACH] == f"policy/{POLICY[:8]} was made from it"
    assert set(why) == {SAMPLE, TEACH, POLICY}


def test_what_the_configuration_names_stays(tmp_path):
    chain(tmp_path, days=20)
    why = kept(tmp_path, [("teach", TEACH)], keep_days=0)
    assert why[TEACH] == "this configuration names it"
    assert set(why) == {SAMPLE, TEACH}
    assert set(kept(tmp_path, [], {POLICY}, keep_days=0)) == {SAMPLE, TEACH, POLICY}


def test_nothing_goes_within_the_hour_of_its_use(tmp_path):
    chain(tmp_path, days=0.5 / 24)
    assert set(kept(tmp_path, keep_days=0).values()) == {"used within the hour"}
    aged(tmp_path / "policy" / POLICY, days=2 / 24)
    assert set(kept(tmp_path, keep_days=0)) == {SAMPLE, TEACH}


def test_a_use_makes_it_young_and_holds_it_and_what_it_was_made_from(tmp_path):
    path = chain(tmp_path, days=20)
    uses = Uses(tmp_path)
    uses.hold("policy", POLICY)
    why = kept(tmp_path, keep_days=0)
    assert why[POLICY] == "a running job uses it"
    assert set(why) == {SAMPLE, TEACH, POLICY}
    entry = next(e for e in list_entries(tmp_path) if e.fingerprint == POLICY)
    assert remove(tmp_path, entry) == "a running job uses it"
    del uses
    assert kept(tmp_path, keep_days=0)[POLICY] == "used within the hour"
    aged(path, days=20)
    assert kept(tmp_path, keep_days=0) == {}


def test_a_model_of_the_store_that_settings_name_is_held(tmp_path):
    chain(tmp_path, days=20)
    uses = Uses(tmp_path)
    uses.hold_mentioned(json.dumps({"evaluate": {"model": f"x/policy/{POLICY}/model"}, "n": "ab"}))
    held = {e.fingerprint for e in list_entries(tmp_path) if e.held}
    assert held == {POLICY}
    del uses


def test_left_over_work_goes_by_its_own_days_and_a_damaged_folder_soon(tmp_path):
    work = ArtifactStore(tmp_path).work("grm", SAMPLE)
    (work / "parts").mkdir(parents=True)
    aged(work, days=5)
    damaged = made(tmp_path, "score", TEACH)
    (damaged / "manifest.json").write_text("")
    aged(damaged, days=0.1)
    assert kept(tmp_path, work_days=7) == {SAMPLE: "used within 7 days"}
    assert kept(tmp_path, work_days=4, keep_days=100) == {}
    assert set(kept(tmp_path, [("grm", SAMPLE)], work_days=4)) == {SAMPLE}
    uses = Uses(tmp_path)
    uses.hold("grm", SAMPLE)
    assert kept(tmp_path, work_days=4)[SAMPLE] == "a running job uses it"
    del uses


# ---- removing -------------------------------------------------------------------------------


def test_children_go_before_their_parents(tmp_path):
    chain(tmp_path, days=20)
    assert [e.stage for e in removal_order(list_entries(tmp_path))] == ["policy", "teach", "sample"]
    both = [
        dataclasses.replace(e, links=frozenset({SAMPLE, TEACH})) for e in list_entries(tmp_path)[:2]
    ]
    assert len(removal_order(both)) == 2  # a circle of damaged manifests ends too


@pytest.mark.parametrize("at", ["rename", "sync", "rmtree"])
def test_a_kill_while_removing_leaves_nothing_that_passes_for_whole(tmp_path, monkeypatch, at):
    path = made(tmp_path, "sample", SAMPLE, days=20)
    entry = list_entries(tmp_path)[0]

    class Kill(BaseException):
        pass

    def kill(*_, **__):
        raise Kill

    def half(folder, **_):
        (Path(folder) / "table.txt").unlink()  # the manifest is still there
        raise Kill

    place = {"rename": os, "sync": atomic, "rmtree": prune.shutil}[at]
    with monkeypatch.context() as patch:
        patch.setattr(place, at, half if at == "rmtree" else kill)
        with pytest.raises(Kill):
            remove(tmp_path, entry)
    whole = ArtifactStore(tmp_path).find("sample", SAMPLE)
    assert (whole is not None) == (at == "rename")
    if whole is not None:
        assert whole.file("table.txt").read_text() == "rows"
    for entry in list_entries(tmp_path):
        assert remove(tmp_path, entry) == ""
    assert [p.name for p in path.parent.iterdir() if p.is_dir()] == []
    made(tmp_path, "sample", SAMPLE)  # and it can be made again


def test_what_was_used_meanwhile_stays(tmp_path):
    path = made(tmp_path, "sample", SAMPLE, days=20)
    entry = list_entries(tmp_path)[0]
    Uses(tmp_path).hold("sample", SAMPLE)  # and let go again at once
    assert remove(tmp_path, entry) == "it was used meanwhile"
    aged(path, days=20)
    entry = list_entries(tmp_path)[0]
    assert remove(tmp_path, entry) == ""
    assert remove(tmp_path, entry) == "it is gone already"


HOLDER = """
import sys, time
from pathlib import Path
from rlmec.store.locks import Uses
uses = Uses(Path(sys.argv[1]))
uses.hold("grm", "f" * 20); uses.sign("grm", "f" * 20)
print("held", flush=True)
time.sleep(60)
"""


def test_a_use_dies_with_its_process(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout.readline() == "held\n"
        path = use_file(tmp_path, "grm", "f" * 20)
        assert signed(path)["process"] == holder.pid
        Uses(tmp_path).hold("grm", "f" * 20)  # several may use it
        assert is_locked(path)
        with lock_alone(path) as nobody:
            assert not nobody
        holder.kill()
        holder.wait()
    assert not is_locked(path)
    with lock_alone(path) as nobody:
        assert nobody


def test_a_job_that_comes_during_a_removal_waits_and_finds_the_artifact_gone(tmp_path, monkeypatch):
    made(tmp_path, "sample", SAMPLE, days=20)
    use = use_file(tmp_path, "sample", SAMPLE)
    uses, rename, waiting = Uses(tmp_path), os.rename, []

    def during(source, target):
        """The job comes when the use file is locked and nothing has been renamed yet."""
        job = threading.Thread(target=uses.hold, args=("sample", SAMPLE))
        job.start()
        job.join(0.3)
        assert job.is_alive()
        waiting.append(job)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", during)
        assert remove(tmp_path, list_entries(tmp_path)[0]) == ""
    waiting[0].join(10)
    assert not waiting[0].is_alive()
    assert ArtifactStore(tmp_path).find("sample", SAMPLE) is None
    assert is_locked(use)  # the same file: what this job makes now is safe from the next removal
    made(tmp_path, "sample", SAMPLE, days=20)
    assert remove(tmp_path, list_entries(tmp_path)[0]) == "a running job uses it"


# ---- the commands ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Paths:
    artifacts: str


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the commands read from the settings of a run."""

    paths: Paths
    prune: PruneSettings
    stage: str = "prune"
    model: str | None = None


def opened(root, capsys, stage, chain=(), model=None, **prune):
    names = lambda: lambda settings: list(chain)  # noqa: E731
    store_commands.run_store_command(
        Settings(Paths(str(root)), PruneSettings(**(KEEPING | prune)), stage, model), names
    )
    return capsys.readouterr().out


def test_prune_says_what_would_go_and_removes_it_when_told_to(tmp_path, capsys):
    chain(tmp_path, days=20)
    made(tmp_path, "grm", "d" * 20, days=2)
    named = [Named("sample", "sample", SAMPLE)]
    said = opened(tmp_path, capsys, "prune", named)
    assert f"would remove: policy/{POLICY}, whole" in said
    assert "2 folders" in said
    assert "prune.dry_run=false" in said
    assert len(list_entries(tmp_path)) == 4
    said = opened(tmp_path, capsys, "prune", named, dry_run=False)
    assert said.index(f"removed: policy/{POLICY}") < said.index(f"removed: teach/{TEACH}")
    assert [e.stage for e in list_entries(tmp_path)] == ["sample", "grm"]
    assert "kept because this configuration names it: 1" in said
    said = opened(tmp_path, capsys, "prune", keep_days=0, dry_run=False, model=f"x/grm/{'d' * 20}")
    assert [e.stage for e in list_entries(tmp_path)] == ["grm"]


def test_prune_does_not_guess_what_the_configuration_names(tmp_path, capsys):
    chain(tmp_path, days=20)

    def names():
        def fail(settings):
            raise FileNotFoundError("no file 'solutions.jsonl'")

        return fail

    settings = Settings(Paths(str(tmp_path)), PruneSettings(0.0, 0.0, dry_run=False))
    with pytest.raises(ValueError, match=r"solutions\.jsonl"):
        store_commands.run_store_command(settings, names)
    assert len(list_entries(tmp_path)) == 3
    store_commands.run_store_command(dataclasses.replace(settings, stage="status"), names)
    assert (
        "cannot list what this configuration names: no file 'solutions.jsonl'"
        in capsys.readouterr().out
    )


def test_status_shows_the_store_and_the_configuration_s_chain(tmp_path, capsys):
    chain(tmp_path, days=3)
    named = [Named("sample", "sample", SAMPLE), Named("policy (b)", "policy", "e" * 20)]
    lines = opened(tmp_path, capsys, "status", named).splitlines()
    assert lines[0].split()[:3] == ["stage", "fingerprint", "state"]
    size = size_of(list_entries(tmp_path)[2].size)
    above = "sample/aaaaaaaa, teach/bbbbbbbb"
    assert " ".join(lines[3].split()) == f"policy {POLICY} whole {size} 3 d ago 3 d ago {above} -"
    assert f"  sample      {SAMPLE}  whole" in lines
    assert f"  policy (b)  {'e' * 20}  not made yet" in lines
    assert "0 folders (0 B)" in opened(tmp_path / "none", capsys, "status", named)
    assert not (tmp_path / "none").exists()


def policy(epsilon, objective="method.objectives.rlmec_clipped", **more):
    """The settings of a policy that is trained with an objective."""
    node = {"_target_": f"rlmec.{objective}", "_partial_": True, "epsilon": epsilon}
    return {"policy": {"seed": 1, "lr": 0.1, "objective": node}} | more


def test_status_tells_the_artifacts_of_a_stage_apart(tmp_path, capsys):
    made(tmp_path, "sample", SAMPLE, settings={"sample": {"seed": 1}})
    above = {"sample": SAMPLE}
    made(tmp_path, "policy", "1" * 20, 4, above, policy(0.1), metrics={"dev/accuracy": 0.125})
    made(tmp_path, "policy", "2" * 20, 3, above, policy(0.3, round=2))
    other = policy(0.3)
    other["policy"]["objective"] = {"_target_": "mine.likelihood", "_partial_": True}
    made(tmp_path, "policy", "3" * 20, 2, above, other, variant="b")
    metrics = {"eval/svamp/accuracy": 0.75, "eval/svamp/accuracy_flexible": 0.8}
    made(tmp_path, "evaluate", "4" * 20, 1, {"policy": "2" * 20}, metrics=metrics)

    lines = opened(tmp_path, capsys, "status", [Named("s", "sample", SAMPLE)]).splitlines()
    start = lines.index("artifacts of one stage differ in:")
    assert [line.split("  ") for line in lines[start + 1 : start + 4]] == [
        ["", f"policy/{'1' * 8}", SAME, "policy.objective.epsilon=0.1", "dev accuracy 0.1250"],
        [
            *("", f"policy/{'2' * 8}", SAME, "policy.objective.epsilon=0.3", "round=2"),
            "svamp accuracy 0.7500",
        ],
        ["", f"policy/{'3' * 8}", "variant=b", "policy.objective=likelihood"],
    ]
    assert lines[start + 4] == "this configuration names:"


SAME = "policy.objective=rlmec_clipped"
"""What two of the policies share, and the third does not."""


def test_artifacts_that_differ_in_their_parents_alone_are_told_by_them(tmp_path, capsys):
    made(tmp_path, "sample", SAMPLE)
    for fp, parent in (("1" * 20, SAMPLE), ("2" * 20, TEACH)):
        made(tmp_path, "grm", fp, parents={"sample": parent}, settings=policy(0.1))
    said = opened(tmp_path, capsys, "status", [Named("s", "sample", SAMPLE)])
    assert f"  grm/{'1' * 8}  sample/{SAMPLE[:8]}\n" in said
    assert f"  grm/{'2' * 8}  sample/{TEACH[:8]}\n" in said


def test_the_store_is_read_before_anything_heavy_is_imported():
    code = (
        "import sys, rlmec.runtime.store_commands, rlmec.runtime.entry\n"
        "heavy = {'torch', 'lightning', 'transformers', 'datasets', 'pyarrow', 'numpy', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2.0**41, "2.0 TiB")]
)
def test_sizes_in_words(count, shown):
    assert size_of(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-5, "0 s ago"), (90, "2 min ago"), (7200, "2 h ago"), (2e5, "2 d ago")]
)
def test_ages_in_words(seconds, shown):
    assert age_of(seconds) == shown
