"""Every command that README, docs, examples and the configuration files show is one that starts.

Commands of train.py and evaluate.py compose; those of other modules name a module of this project;
targets of make are in the Makefile; links between the pages lead somewhere; Python code compiles.
"""

import ast
import importlib.util
import re
import shlex

import pytest
from walk import ROOT

from rlmec.__main__ import COMMANDS
from rlmec.settings.command_line import check_command_line, with_split_files, with_stage

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "RESULTS.md", ROOT / "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").glob("*.md")) + sorted((ROOT / "examples").glob("*"))
SHOWING = [page for page in PAGES if page.suffix in (".md", ".py")]
SHOWING += sorted((ROOT / "conf").rglob("*.yaml"))
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in SHOWING}
MARKDOWN = [name for name in TEXTS if name.endswith(".md")]

COMMAND = re.compile(r"python (train|evaluate)\.py\b([^`\n]*)")
INSTALLED = re.compile(rf"(?:^|-m |`)rlmec ({'|'.join(COMMANDS)})\b([^`\n]*)", re.MULTILINE)
MODULE = re.compile(r"python -m ((?:benchmarks|tests|rlmec)[\w.]*)")
BLOCK = re.compile(r"^```\w*\n.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")


def commands():
    """(page, program, arguments) of every command; what follows a # is a comment.

    RESULTS.md writes placeholders in capitals and sets that were swept: it is left out.
    """
    for page, text in TEXTS.items():
        if page == "RESULTS.md":
            continue
        joined = text.replace("\\\n", " ")
        for program, rest in COMMAND.findall(joined):
            plain = _without_escapes(rest.removesuffix(" &"))
            yield page, program, *shlex.split(plain, comments=True)
        for name, rest in INSTALLED.findall(joined):
            given = shlex.split(rest, comments=True)
            program, stage, _ = COMMANDS[name]
            yield page, program, *(with_stage(given, stage) if stage else given)


def _without_escapes(line):
    """A shell line with every $'...' as a plain quoted word, its backslash-n a line break."""
    return re.sub(r"\$'([^']*)'", lambda m: shlex.quote(m[1].replace(r"\n", "\n")), line)


FOUND = sorted(set(commands()))


@pytest.mark.parametrize("found", sorted({found[1:] for found in FOUND}), ids=" ".join)
def test_a_shown_command_composes(found, monkeypatch):
    program, *arguments = found
    arguments = [a for a in arguments if a not in ("--help", "--version")]  # these end at once
    monkeypatch.chdir(ROOT)
    check_command_line(with_split_files(arguments), ROOT / "conf", program)


def test_there_are_commands_and_a_misspelt_one_is_found(capsys):
    pages = [page for page, *_ in FOUND]
    assert pages.count("README.md") >= 10
    assert len({page for page in pages if page.startswith("docs/")}) >= 10
    assert {"train", "evaluate"} == {program for _, program, *_ in FOUND}
    with pytest.raises(SystemExit):
        check_command_line(["experiment=smok"], ROOT / "conf", "train")
    assert "'smoke'" in capsys.readouterr().err


def test_modules_that_the_pages_start_exist():
    named = {name for text in TEXTS.values() for name in MODULE.findall(text)}
    assert len(named) >= 5
    missing = [name for name in named if importlib.util.find_spec(name) is None]
    assert not missing


def test_targets_that_the_pages_name_are_in_the_makefile():
    named = set()
    for text in (TEXTS[name] for name in MARKDOWN):
        named.update(re.findall(r"`make ([a-z]+)", text))
        for block in BLOCK.findall(text):
            named.update(re.findall(r"(?:^|; )make ([a-z]+)", block, re.MULTILINE))

    made = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "check", "test", "docs"} <= named
    assert named - made == set()


@pytest.mark.parametrize("name", MARKDOWN)
def test_links_lead_to_files(name):
    folder = (ROOT / name).parent
    text = re.sub(r"```.*?```", "", TEXTS[name], flags=re.DOTALL)
    links = [link for link in LINK.findall(text) if "://" not in link]
    assert [link for link in links if not (folder / link).exists()] == []


@pytest.mark.parametrize("name", MARKDOWN)
def test_python_on_the_pages_is_python(name):
    for code in re.findall(r"```python\n(.*?)```", TEXTS[name], re.DOTALL):
        ast.parse(code)


def test_readme_is_one_page_with_a_small_picture():
    assert len(TEXTS["README.md"].splitlines()) <= 160
    assert (ROOT / "docs" / "token_page.png").stat().st_size < 200_000


def test_broad_files_of_the_tests_exist():
    """tests/conftest.py names them; a renamed file would slip into make check."""
    text = (ROOT / "tests" / "conftest.py").read_text().partition("BROAD = {")[2].partition("}")[0]
    names = re.findall(r'"([^"]+)"', text)
    assert len(names) > 10
    assert [name for name in names if not (ROOT / "tests" / f"{name}.py").is_file()] == []
