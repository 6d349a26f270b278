"""The verifier: equal to math-verify, its failures told apart, not to be hung, no orphans."""

import json
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from bombs import BOMBS
from torch.utils.data import DataLoader, Dataset

from rlmec.answers import math_verifier as verifier_module
from rlmec.answers.math_verifier import LONGEST, Verifier
from rlmec.records import UNDECIDED, VERDICTS

BOMB, HALF = r"9^{9^{9}}", (r"\frac{1}{2}", "0.5")
LIMITS = {"time_limit": 0.3}
# no file of the child's is imported: each line "gold, answer" says what it is to do
STAND_IN = """
import json, os, signal, sys, time
print("ready", flush=True)
for line in sys.stdin:
    gold, answer = json.loads(line)
    if answer == "die": os._exit(3)
    if answer == "hard": os.kill(os.getpid(), signal.SIGVTALRM)
    if answer == "sleep": time.sleep(60)
    print("right" if gold == answer else "wrong", flush=True)
"""


@pytest.fixture
def verifier():
    made = Verifier(processes=1, **LIMITS)
    yield made
    made.close()


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Children that run a script which does as it is told."""

    def use(text: str) -> Verifier:
        (tmp_path / "child.py").write_text(text)
        monkeypatch.setattr(verifier_module, "SCRIPT", tmp_path / "child.py")
        return Verifier(processes=1)

    return use


def pids(verifier: Verifier) -> list[int]:
    return [child.process.pid for child in verifier._children]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def gone(pid: int, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


def test_verdicts_in_their_order_and_one_question_for_each_pair(verifier):
    pairs = [HALF, ("x+1", "1+x"), ("1", BOMB), ("2", "hello"), ("", "1"), HALF, ("3", "x=3")]
    wanted = ["right", "right", "timeout", "wrong", "unparsable", "right", "right"]
    assert verifier.check_many(pairs) == wanted
    assert set(wanted) <= set(VERDICTS)
    (pid,) = pids(verifier)
    os.kill(pid, signal.SIGSTOP)  # what is known needs no child
    assert verifier.check_many(pairs) == wanted
    os.kill(pid, signal.SIGCONT)
    assert verifier.check("1", "1" + "+0" * LONGEST) == "wrong"
    assert verifier.check("9" * (LONGEST + 1), "1") == "unparsable"
    assert verifier.readable([r"\frac{1}{2}", "", BOMB]) == [True, False, True]


def test_a_lack_of_memory_is_told_apart(stand_in):
    script = verifier_module.SCRIPT.read_text()
    waste = 'bytearray(2**30) if answer == "big" else None'
    greedy = script.replace("pairs = product(", f"{waste}\n        pairs = product(")
    assert greedy != script
    verifier = stand_in(greedy)
    assert verifier.check_many([("1", "big"), HALF]) == ["memory", "right"]
    assert len(pids(verifier)) == 1
    verifier.close()


def test_a_crash_is_told_apart_and_tried_once_more(stand_in):
    verifier = stand_in(STAND_IN)
    assert verifier.check_many([("1", "die"), ("1", "1"), ("1", "hard")]) == [
        *("crash", "right", "timeout")
    ]
    assert set(UNDECIDED) == {"timeout", "memory", "crash"}
    verifier.check("2", "2")
    (pid,) = pids(verifier)
    os.kill(pid, signal.SIGKILL)  # while it has nothing to do: nobody's answer is to blame
    assert gone(pid)
    assert verifier.check("3", "3") == "right"
    verifier.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_child_outlives_what_asks_the_run_to_stop(number):
    """Ctrl-C in a terminal reaches all processes, and the run's last part still wants verdicts."""
    verifier = Verifier(processes=1)
    assert verifier.check("1", "1") == "right"
    (pid,) = pids(verifier)
    os.kill(pid, number)
    assert verifier.check("2", "2") == "right"
    assert pids(verifier) == [pid]
    verifier.close()


def test_a_child_that_does_no_work_is_killed_from_outside(stand_in, monkeypatch):
    monkeypatch.setattr(verifier_module, "PATIENCE", 0.3)
    verifier = stand_in(STAND_IN)
    assert verifier.check("1", "1") == "right"
    (pid,) = pids(verifier)
    assert verifier.check("1", "sleep") == "timeout"
    assert gone(pid)
    assert verifier.check("2", "2") == "right"
    verifier.close()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("print('error: No module named math_verify')", r"math_verify; pip install 'math-verify"),
        ("raise SystemExit(7)", "its process ended with code 7"),
    ],
)
def test_a_child_that_cannot_start_is_an_error(stand_in, script, message):
    verifier = stand_in(script)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=message):
            verifier.check("1", "2")
        assert pids(verifier) == []


def test_settings_out_of_range_are_refused():
    for bad in ({"time_limit": 0}, {"memory_limit": -1}, {"processes": 0}):
        with pytest.raises(ValueError, match="must be above 0"):
            Verifier(**bad)


def test_a_child_is_small_and_knows_no_secret(verifier, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "canary-7391")
    assert verifier.check(*HALF) == "right"
    (pid,) = pids(verifier)
    assert b"canary" not in Path(f"/proc/{pid}/environ").read_bytes()
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "python" in maps
    assert "torch" not in maps
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert f"{2**30}" in next(x for x in limits.split("\n") if x.startswith("Max address space"))


def test_importing_the_tasks_is_light_and_starts_nothing():
    modules = ["tasks.multiple_choice", "tasks.math", "tasks.gsm8k", "tasks.mmlu", "tasks.svamp"]
    modules += ["answers.numbers", "answers.options", "answers.math_verifier"]
    code = (
        f"import sys; [__import__('rlmec.' + m) for m in {modules}]; "
        "heavy = {'torch', 'math_verify', 'sympy', 'datasets', 'transformers'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


PARENT = """
import os, sys, time
from rlmec.answers.math_verifier import Verifier
v = Verifier(processes=1)
assert v.check("1", "x=1") == "right"
print(v._children[0].process.pid, flush=True)
if sys.argv[1] == "wait": time.sleep(60)
if sys.argv[1] == "_exit": os._exit(0)
"""


@pytest.mark.parametrize("end", ["return", "_exit", "wait"])
def test_children_end_with_their_parent_however_it_ends(end):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, end], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    if end == "wait":
        parent.kill()
    assert parent.wait(30) == {"return": 0, "_exit": 0, "wait": -9}[end]
    parent.stdout.close()
    assert gone(pid)


def test_a_copy_starts_its_own_children(verifier):
    assert verifier.check(*HALF) == "right"
    copy = pickle.loads(pickle.dumps(verifier))
    assert (pids(copy), copy.time_limit) == ([], LIMITS["time_limit"])
    assert copy.check(*HALF) == "right"
    copy.close()
    assert alive(pids(verifier)[0])


class Answers(Dataset):
    """Items of a data set that are judged where they are asked for."""

    def __init__(self, verifier: Verifier, pairs: list[tuple[str, str]]):
        self.verifier, self.pairs = verifier, pairs

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return json.dumps([self.verifier.check_many(self.pairs), pids(self.verifier)])


def in_main(verifier, pairs):
    return verifier.check_many(pairs)


def in_thread(verifier, pairs):
    out = []
    thread = threading.Thread(target=lambda: out.append(verifier.check_many(pairs)))
    thread.start()
    thread.join()
    return out[0]


def in_worker(verifier, pairs):
    """In a forked worker of a loader, while this process has children of its own."""
    assert verifier.check("7", "x=7") == "right"
    (mine,) = [pid for pid in pids(verifier) if alive(pid)][:1]
    loader = DataLoader(
        Answers(verifier, pairs), batch_size=None, num_workers=1, multiprocessing_context="fork"
    )
    (item,) = list(loader)
    verdicts, theirs = json.loads(item)
    assert mine not in theirs
    assert alive(mine)
    assert all(gone(pid) for pid in theirs)
    assert verifier.check("8", "x=8") == "right"
    return verdicts


CONTEXTS = {"main": in_main, "thread": in_thread, "worker": in_worker}


@pytest.mark.parametrize("context", CONTEXTS)
def test_it_works_in_every_context(verifier, context):
    torch.set_num_threads(1)
    pairs = [HALF, ("1", BOMB), ("x+y", "y+x"), ("1", "x=2")]
    assert CONTEXTS[context](verifier, pairs) == ["right", "timeout", "right", "wrong"]


def test_a_forked_process_leaves_its_parents_children_alone(verifier):
    assert verifier.check(*HALF) == "right"
    mine = pids(verifier)
    process = multiprocessing.get_context("fork").Process(target=verifier.close)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert verifier.check("1", "x=1") == "right"
    assert pids(verifier) == mine
    assert all(alive(pid) for pid in mine)


TIMEOUTS = ("power", "factorial", "long sum", "binomial")


OF_EACH_KIND = (*TIMEOUTS, "tower of nines", "power against itself and one", "integral")
OF_EACH_KIND += ("matrix of symbols", "polynomial", "nested brackets", "many digits", "a long text")


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [OF_EACH_KIND, pytest.param(tuple(BOMBS), marks=pytest.mark.long)]
)
def test_bombs(names):
    """In under 120 seconds of processor time (about 20; the clock depends on who else is at work)
    and 3 GiB, each with a verdict and none of them right."""
    assert len(names) in (12, 36)
    pairs = [BOMBS[name][::-1] for name in names]
    verifier = Verifier()
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    verdicts = in_main(verifier, pairs)
    verifier.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    memory = verifier.processes * after.ru_maxrss / 2**20
    print(f"{seconds:.1f} s of processor time, {time.monotonic() - start:.1f} s by the")
    print(f"clock, {memory:.2f} GiB at most")
    named = dict(zip(names, verdicts, strict=True))
    assert set(verdicts) <= {"wrong", "timeout", "memory"}
    assert {named[name] for name in TIMEOUTS} == {"timeout"}
    assert seconds < 120
    assert memory < 3


def easy_pairs() -> list[tuple[str, str]]:
    """A hundred and fifty pairs of answers, half of them equal."""
    forms = (
        *(("{a}", "{a}"), ("{a}", "{b}"), (r"\frac{{{a}}}{{{b}}}", "{a}/{b}")),
        *((r"\sqrt{{{a}}}", "{a}^{{1/2}}"), ("{a}x+{b}", "{b}+{a}x"), ("({a},{b})", "({b},{a})")),
        *((r"{a}\pi", r"\pi \cdot {a}"), ("{a}", "x={a}"), (r"{a}\%", "{a}"), ("{a}x", "{b}x")),
    )
    return [
        (gold.format(a=a, b=b), answer.format(a=a, b=b))
        for a, b in ((n, (7 * n) % 101 + 1) for n in range(2, 32, 2))
        for gold, answer in forms
    ]


@pytest.mark.slow
def test_easy_answers_equal_direct_math_verify():
    """With its LaTeX reader; the other one, for plain expressions, evaluates text."""
    from math_verify import LatexExtractionConfig, parse, verify

    def read(answer):
        return parse(f"${answer}$", extraction_config=[LatexExtractionConfig()])

    pairs = easy_pairs()
    assert len(pairs) == 150
    verifier = Verifier()
    found = verifier.check_many(pairs)
    verifier.close()
    direct = [bool(verify(read(g), read(a))) for g, a in pairs]
    assert [verdict == "right" for verdict in found] == direct
    assert set(found) == {"right", "wrong"}
    assert 60 < sum(direct) < 135


def test_signals_to_all_processes_of_a_job_leave_the_children_at_work(verifier):
    """They are for the run, which drops what it has not finished; a child that died of one would
    make a right answer a "crash"."""
    assert verifier.check(*HALF) == "right"
    (child,) = before = pids(verifier)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(child, number)
    assert verifier.check(r"\frac{1}{4}", "0.25") == "right"
    assert pids(verifier) == before
