"""A matplotlib figure as an element of a page that follows the page's colour scheme.

In: a figure in the colours of `rlmec.report.figures`. Out: one `<svg>` element. Each colour becomes
a CSS variable with the figure's own colour as its fallback, so that a dark page has to set the dark
ones only. Styles become attributes, because a Content-Security-Policy with hashes refuses inline
styles. Texts stay texts, in the font of the page.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from rlmec.report import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SERIES = ("grey", "blue", "orange", "green", "purple", "ochre", "pink")
_COLOURS = {name: getattr(figures, name.upper()) for name in (*_SERIES, "ink", "quiet", "line")}

VARIABLES = {colour: f"var(--{name},{colour})" for name, colour in _COLOURS.items()}
"""The CSS variable of each colour."""

_DROPPED = ("font", "font-family", "stroke-linejoin", "stroke-miterlimit")
_REFERENCE = re.compile(r"#([\w.-]+)")


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an `<svg>` element, which screen readers call `label`.

    `name` must differ from that of every other figure of the page: ids are made from it.
    """
    import matplotlib

    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata=nothing)

    # The text is matplotlib's own: no entity, no reference to another file.
    root = ElementTree.fromstring(text.getvalue())
    used = set(_REFERENCE.findall(text.getvalue()))
    for element in list(root.iter()):
        _clean(element, used)

    width, height = (float(v) for v in root.attrib["viewBox"].split()[2:])
    root.attrib |= {"width": f"{width / 0.75:.0f}", "height": f"{height / 0.75:.0f}"}
    root.attrib |= {"role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _clean(element: ElementTree.Element, used: set[str]) -> None:
    """Drops namespaces, styles and ids that nothing refers to."""
    element.tag = _local(element.tag)
    for child in [c for c in element if _local(c.tag) in ("metadata", "style")]:
        element.remove(child)
    # Outside texts there are only line breaks.
    if element.tag not in ("text", "tspan"):
        element.text = None
    element.tail = None

    found = {_local(name): value for name, value in element.attrib.items()}
    styles = dict(part.split(": ", 1) for part in found.pop("style", "").split("; ") if part)
    found |= {name: value for name, value in styles.items() if name not in _DROPPED}
    if found.get("id") not in used:
        found.pop("id", None)
    if "d" in found:
        found["d"] = " ".join(found["d"].split())
    element.attrib.clear()
    element.attrib.update({name: VARIABLES.get(value, value) for name, value in found.items()})


def _local(name: str) -> str:
    """A name without its namespace."""
    return name.rpartition("}")[2]
