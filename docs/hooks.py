"""Hooks of the documentation site: pages of the repository's root, and links that leave docs/.

RESULTS.md, LOG.md, CHANGELOG.md and CONTRIBUTING.md lie in the repository's root, where readers of
a repository look for them. The site shows them as pages of its own. Links between them and docs/
are adjusted. A link to anything else outside docs/ (code, configuration) becomes its text alone,
because the site does not know where the repository is published.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
ROOT_PAGES = ("RESULTS.md", "LOG.md", "CHANGELOG.md", "CONTRIBUTING.md")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    for name in ROOT_PAGES:
        content = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    in_root = page.file.src_uri in ROOT_PAGES
    return LINK.sub(lambda found: _adjusted(found, in_root), markdown)


def _adjusted(found: re.Match[str], in_root: bool) -> str:
    mark, text, target = found.groups()
    if "://" in target or target.startswith(("#", "mailto:")):
        return found[0]

    path, _, anchor = target.partition("#")
    inside = path.removeprefix("docs/") if in_root else path.removeprefix("../")
    leaves_docs = not path.startswith("docs/") if in_root else path.startswith("../")
    if leaves_docs and inside not in ROOT_PAGES:
        return text
    return f"{mark}[{text}]({inside}{'#' + anchor if anchor else ''})"
