"""Digests of source: equal under every Python, and the judges count with what compares by them."""

import ast
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlmec.settings import sources

CORPUS = Path(__file__).parent / "source_corpus.txt"
PRINT_DIGEST = """
import ast, hashlib, importlib.util, sys
spec = importlib.util.spec_from_file_location("sources", sys.argv[1])
sources = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sources)
tree = ast.parse(open(sys.argv[2], encoding="utf-8").read())
print(hashlib.sha256(sources.meaning(tree).encode()).hexdigest())
"""


def digest(text):
    return hashlib.sha256(sources.meaning(ast.parse(text)).encode()).hexdigest()


def other_pythons():
    """The Pythons from 3.10 on that this machine has, by version, without the running one."""
    named = [shutil.which(f"python3.{minor}") for minor in range(10, 20)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    named += [str(path) for path in sorted(pyenv.glob("versions/3.1*/bin/python"))]

    found = {}
    for path in filter(None, named):
        asked = [path, "-c", "import sys; print(*sys.version_info[:2])"]
        done = subprocess.run(asked, capture_output=True, text=True)
        version = tuple(map(int, done.stdout.split())) if done.returncode == 0 else ()
        if version >= (3, 10) and version != sys.version_info[:2]:
            found[version] = path
    return found


def test_every_python_gives_the_same_digest():
    pythons = other_pythons()
    if not pythons:
        pytest.skip("this machine has no second Python of 3.10 or later")
    for version, python in pythons.items():
        command = [python, "-I", "-c", PRINT_DIGEST, sources.__file__, str(CORPUS)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        assert printed == digest(CORPUS.read_text(encoding="utf-8")), version


def test_the_digest_of_a_source_is_the_one_that_was_written_down():
    """Another digest means other addresses of every artifact: say so in CHANGELOG.md."""
    assert digest(CORPUS.read_text(encoding="utf-8"))[:20] == "44964b54be75af34b0c5"
    assert sources.canonical(ast.parse("def f(x, *, y=0):\n    return f'{x:>{y}}' + '\\xe9'")) == (
        "Module(body=[FunctionDef(args=arguments(args=[arg(arg='x')], kw_defaults=[int 0x0], "
        "kwonlyargs=[arg(arg='y')]), body=[Return(value=BinOp(left=JoinedStr(FormattedValue("
        "conversion=-1, format_spec=JoinedStr(str '>', FormattedValue(conversion=-1, "
        "value=Name(id='y'))), value=Name(id='x'))), op=Add(), right=str '\\xe9'))], name='f')])"
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("x = 1", "import os\n'''Text.'''\nx = (1)  # why", True),
        ("x = f'a' 'b' f'{y}'", "x = f'ab{y}'", True),
        ("x = u'a'", "x = 'a'", True),
        ("def f():\n  '''Says.'''\n  return 1", "def f(): return 1", True),
        ("x = 1", "x = 1.0", False),
        ("x = 1", "x = True", False),
        ("x = 'a'", "x = b'a'", False),
        ("x = f'{y}'", "x = f'{y!r}'", False),
        ("x = f'{y}'", "x = f'{{y}}'", False),
        ("x = {**y}", "x = {y: None}", False),
        ("x = -1", "x = ~1", False),
        ("def f(): pass", "async def f(): pass", False),
        ("f(*x)", "f(x)", False),
        ("match x:\n  case None: pass", "match x:\n  case True: pass", False),
        ("x[1]", "x[1:]", False),
        ("def f(a, /): pass", "def f(a): pass", False),
        ("def f(*, a, b=1): pass", "def f(*, b=1, a): pass", False),
    ],
)
def test_meanings_are_equal_where_code_does_the_same(one, other, same):
    assert (digest(one) == digest(other)) == same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2.13.0+cpu", "2.13.0+cu126", True),
        ("2.13.0", "2.13.1", True),
        ("2.13.0", "2.14.0", False),
        ("2.13.0", "3.13.0", False),
        ("2.14.0a0+git1234567", "2.14.2", True),
        ("2.13.0", "none", False),
    ],
)
def test_a_library_counts_by_its_release_not_by_its_build(one, other, same, monkeypatch):
    def digest_under(version):
        monkeypatch.setattr(sources, "distribution_version", lambda distribution: version)
        return sources.source_digest("torch.optim.AdamW")

    assert (digest_under(one) == digest_under(other)) == same


@pytest.mark.parametrize(
    ("module", "judges"),
    [
        ("rlmec.tasks.gsm8k.Gsm8kTask", True),
        ("rlmec.tasks.math.MathTask", True),
        ("rlmec.tasks.mmlu.MmluTask", True),
        ("rlmec.tasks.multiple_choice.OptionTask", True),
        ("rlmec.tasks.arithmetic.ArithmeticTask", True),
        ("rlmec.records.Problem", False),
    ],
)
def test_a_change_of_the_judges_is_a_change_of_the_tasks(module, judges, monkeypatch):
    before = sources.source_digest(module)
    monkeypatch.setattr(sources, "_judges_digest", lambda: "edited")
    assert (sources.source_digest(module) != before) == judges


def test_a_users_module_that_compares_by_the_judges_counts_them(tmp_path, monkeypatch):
    (tmp_path / "own_task_of_sources.py").write_text(
        '"""A task."""\nfrom rlmec.answers.final_answer import judge_number\nx = 1\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    before = sources.source_digest("own_task_of_sources.Task")
    monkeypatch.setattr(sources, "_judges_digest", lambda: "edited")
    assert sources.source_digest("own_task_of_sources.Task") != before


def test_the_folder_of_a_users_module_does_not_count(tmp_path, monkeypatch):
    digests = []
    for number, text in enumerate(("x = 1\n", "x = 1\n", "x = 2\n")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "own_task_of_places.py").write_text(text)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(tmp_path / str(number)))
            digests.append(sources.source_digest("own_task_of_places.Task"))
    assert digests[0] == digests[1] != digests[2]
