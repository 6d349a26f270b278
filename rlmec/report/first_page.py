"""The first page of the report: the closing table, warnings and figures, and a link to the tokens.

In: Markdown of paragraphs and tables, and PNG files. Out: one HTML text that needs no other file.
`first_page.html` is the template; Jinja2 escapes every value in it except the page's own style.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import jinja2

from rlmec.evaluation.run_warnings import NamedWarning
from rlmec.report.token_page import allowed, policy_of


class MarkdownTable(NamedTuple):
    """A Markdown table as texts."""

    head: list[str]
    rows: list[list[str]]


def index_html(
    title: str,
    table: str,
    figures: Mapping[str, Path],
    warnings: Sequence[NamedWarning],
    tokens_page: str,
) -> str:
    """The page as one HTML text.

    `table` is Markdown. `figures` are PNG files by their caption, and the page contains them.
    `tokens_page` is the name of a file in the same folder.
    """
    here = files("rlmec.report")
    style = here.joinpath("first_page.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(here.joinpath("first_page.html").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        style=style,
        policy=policy_of({"style-src": allowed(style), "img-src": "data:"}),
        tokens_page=tokens_page,
        warnings=warnings,
        blocks=markdown_blocks(table),
        figures=[
            (caption, base64.b64encode(path.read_bytes()).decode("ascii"))
            for caption, path in figures.items()
        ],
    )


def markdown_blocks(text: str) -> list[MarkdownTable | str]:
    """The tables and the paragraphs (one per line) of a Markdown text, in their order.

    Other Markdown is plain text.
    """
    blocks: list[MarkdownTable | str] = []
    rows: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append(_cells(line))
            continue
        if rows:
            has_separator = len(rows) > 1 and _is_separator(rows[1])
            blocks.append(MarkdownTable(rows[0], rows[2 if has_separator else 1 :]))
            rows = []
        if line.strip():
            blocks.append(line.strip())
    return blocks


def _cells(line: str) -> list[str]:
    """The cells of a line of a table, in which a vertical bar of a text is escaped as `\\|`."""
    inner = line.strip().removeprefix("|")
    parts = re.split(r"(?<!\\)\|", inner)
    if len(parts) > 1 and not parts[-1].strip():
        parts.pop()
    return [part.strip().replace("\\|", "|") for part in parts]


def _is_separator(row: list[str]) -> bool:
    """Whether a line is the one between the head and the body of a table."""
    return all(cell and set(cell) <= set("-: ") for cell in row)
