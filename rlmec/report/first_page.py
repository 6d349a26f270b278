"""The report's first page: the closing table, warnings, figures, and the way to the token page.

In: Markdown of paragraphs and pipe tables, PNG files. Out: one self-contained HTML text.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from rlmec.evaluation.run_warnings import NamedWarning
from rlmec.report.token_page import allowed, policy_of


def index_html(
    title: str,
    table: str,
    figures: Mapping[str, Path],
    warnings: Sequence[NamedWarning],
    tokens_page: str,
) -> str:
    """`table` is Markdown; `figures` are PNG files by their caption, put into the page as they are;
    `tokens_page` is a file beside it. All texts are escaped."""
    style = files("rlmec.report").joinpath("index.css").read_text(encoding="utf-8")
    policy = policy_of({"style-src": allowed(style), "img-src": "data:"})
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    parts = ['<!doctype html><html lang="en"><head><meta charset="utf-8">', head]
    parts += ['<meta name="viewport" content="width=device-width, initial-scale=1">']
    parts += [f"<title>RLMEC report: {escape(title)}</title><style>{style}</style></head><body>"]
    parts += [f"<h1>Report <span>{escape(title)}</span></h1>"]
    link = f'<a href="{escape(tokens_page)}">Token rewards, attempt by attempt</a>'
    parts += [f'<p class="link">{link}</p>']
    if warnings:
        lines = "".join(f"<li><b>{escape(w.name)}</b> {_explained(w)}</li>" for w in warnings)
        parts += [f'<section class="warnings"><h2>Warnings</h2><ul>{lines}</ul></section>']
    parts += ["<main>", *table_html(table.splitlines()), "</main>", '<section class="figures">']
    for caption, path in figures.items():
        image = base64.b64encode(path.read_bytes()).decode("ascii")
        parts += [f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{image}">']
        parts += [f"<figcaption>{escape(caption)}</figcaption></figure>"]
    return "\n".join([*parts, "</section></body></html>\n"])


def _explained(warning: NamedWarning) -> str:
    return f"{escape(warning.text)}. Look at <code>{escape(warning.setting)}</code>."


def table_html(lines: Iterable[str]) -> list[str]:
    """Pipe tables and paragraphs of Markdown as HTML, everything else in them as plain text."""
    out: list[str] = []
    rows: list[list[str]] = []
    for line in [*lines, ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
            continue
        if rows:
            out.append(_table(rows))
            rows = []
        if line.strip():
            out.append(f"<p>{escape(line.strip())}</p>")
    return out


def _table(rows: list[list[str]]) -> str:
    def row(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = [r for r in rows[1:] if not all(set(cell) <= set("-: ") and cell for cell in r)]
    inner = "".join(row(cells, "td") for cells in body)
    return f"<table><thead>{row(rows[0], 'th')}</thead><tbody>{inner}</tbody></table>"
