"""The picture of the console: what a command prints on a terminal, with its colours."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.console import draw, placeless, printed

CODE = "import os, sys; size = os.get_terminal_size(); "
CODE += "print('\\033[31mred\\033[0m', sys.stdout.isatty(), size[0])"


def test_a_command_is_drawn_as_a_terminal_shows_it():
    text = printed([sys.executable, "-c", CODE], columns=60)
    assert text == "\x1b[31mred\x1b[0m True 60\n"
    picture = draw(text, "$ it", columns=60)
    words = "".join(ElementTree.fromstring(picture).itertext()).replace("\xa0", " ")
    assert "red True 60" in words
    assert "$ it" in words
    assert "url(http" not in picture, "no font from elsewhere"
    with pytest.raises(subprocess.CalledProcessError):
        printed([sys.executable, "-c", "exit(3)"])


def test_the_folder_of_the_run_is_not_shown():
    assert placeless("report: /tmp/x/artifacts/a", Path("/tmp/x")) == "report: artifacts/a"
