"""`--help` and `--version` of the programs."""

from pathlib import Path

import pytest

import rlmec
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.command_line import check_command_line
from rlmec.settings.help import GROUPS, USES, WIDTH, help_text

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(autouse=True)
def started(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])


@pytest.mark.parametrize("name", list(USES))
def test_help_has_a_line_for_every_group_and_all_options(name):
    text = help_text(["-h"], CONF, name)
    assert text is not None
    assert max(map(len, text.splitlines())) <= WIDTH + 1
    assert text.startswith("usage: python train.py ")
    for use in USES[name]:
        assert f"  python train.py {use}".rstrip() in text.splitlines()

    lines = text[text.index("groups:") :].splitlines()
    told = dict(line.strip().split(": ", 1) for line in lines if ": " in line)
    assert told == GROUPS
    options = text.replace(",", " ").split()
    files = [path.stem for path in CONF.rglob("*.yaml") if path.parent != CONF]
    assert [name for name in files if name not in options] == []


def test_help_shows_groups_and_options_of_the_user_s_own_files(tmp_path):
    for name in ("task/mine.yaml", "mood/good.yaml"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("a: 1\n")
    text = help_text(["--help", f"--config-dir={tmp_path}"], CONF, "train")
    assert text is not None
    assert "mood: your own\n      good" in text
    assert " mine" in text
    with pytest.raises(ConfigurationError, match="no such folder"):
        help_text(["--help", "--config-dir=/nowhere"], CONF, "train")
    assert help_text(["seed=2"], CONF, "train") is None


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        check_command_line(["--version"], CONF, "train")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"rlmec {rlmec.__version__}\n"
