"""docs/troubleshooting.md quotes messages that the code has."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def texts_of_the_code():
    for path in sorted((ROOT / "rlmec").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def quoted():
    """Parts of the quoted messages between what differs from case to case."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    for cell in re.findall(r"^\| (.*?) \| ", page, re.MULTILINE):
        for message in re.findall(r"`([^`]+)`", cell):
            parts = [part.strip(" ;:,().") for part in re.split(r"\.\.\.|'[^']*'|\d+", message)]
            yield from ((message, part) for part in parts if len(part) > 6)


def test_quoted_messages_are_in_the_code():
    code = "\n".join(texts_of_the_code())
    assert len(list(quoted())) > 40
    assert [(message, part) for message, part in quoted() if part not in code] == []
