"""Every command that README, docs and the configuration files show is one that starts."""

import re
import shlex
from pathlib import Path

import pytest
from walking import ROOT

from rlmec.settings.command_line import check_command_line, with_split_files

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "conf").rglob("*.yaml"))
COMMAND = re.compile(r"python (train|evaluate)\.py\b([^`\n]*)")


def commands():
    """(page, program, arguments) of every command; what follows a # is a comment."""
    for page in PAGES:
        for program, rest in COMMAND.findall(page.read_text()):
            yield page, program, shlex.split(rest.removesuffix(" &"), comments=True)


FOUND = sorted({(p.relative_to(ROOT).as_posix(), name, *args) for p, name, args in commands()})


@pytest.mark.parametrize("found", FOUND, ids=" ".join)
def test_a_shown_command_composes(found, monkeypatch):
    _, program, *arguments = found
    monkeypatch.chdir(ROOT)
    check_command_line(with_split_files(arguments), ROOT / "conf", program)


def test_there_are_commands_and_a_misspelt_one_is_found(capsys):
    pages = [Path(page).name for page, *_ in FOUND]
    assert pages.count("README.md") >= 10
    assert {"train", "evaluate"} == {program for _, program, *_ in FOUND}
    with pytest.raises(SystemExit):
        check_command_line(["experiment=smok"], ROOT / "conf", "train")
    assert "the nearest is 'smoke'" in capsys.readouterr().err


def test_the_targets_that_readme_names_are_in_the_makefile():
    named = set(re.findall(r"make (\w+)\b", (ROOT / "README.md").read_text()))
    made = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named & made
    missing = {word for word in re.findall(r"`make (\w+)`", (ROOT / "README.md").read_text())}
    assert not missing - made
