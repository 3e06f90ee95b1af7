"""A matplotlib figure as an SVG element that lives inside an HTML page and follows its colours."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# matplotlib knows fixed colours only. These stand for the page's CSS variables, which differ in light and dark.
_VARIABLES = ("ink", "muted", "line", "band", "relevance", "card", "on-bits", "float")
COLOURS = {name: f"#0a0b{i:02x}" for i, name in enumerate(_VARIABLES, 16)} | {
    f"b{bits}": f"#0a0c{bits:02x}" for bits in range(1, 9)
}
_NAMES = {colour: name for name, colour in COLOURS.items()}
SHRINK = 0.9
"""On a narrow screen a plot becomes this much smaller, then scrolls: its text must stay readable."""


def bit_colour(bits: int | None) -> str:
    """The colour that stands for a bit width, the same from 8 bits up; None is floating point."""
    return COLOURS["float"] if bits is None else COLOURS[f"b{min(bits, 8)}"]


def draw(name: str, description: str, figure: Callable[[], Figure]) -> str:
    """Builds the figure and returns it as one `<svg>` element; the same bytes for the same figure.

    One unit of the element is one CSS pixel and a 72nd of an inch of the figure. `name` keeps the ids of several
    figures on a page apart, `description` is what a screen reader says.
    """
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change the report
        matplotlib.rcParams["svg.fonttype"] = "none"
        matplotlib.rcParams["font.family"] = ["DejaVu Sans"]
        matplotlib.rcParams["svg.hashsalt"] = name
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's browser draws the text
        out = io.BytesIO()
        # All four None: otherwise a metadata block with the date and matplotlib's version is written.
        nothing = {key: None for key in ("Date", "Creator", "Format", "Type")}
        figure().savefig(out, format="svg", transparent=True, metadata=nothing)
    return _inline(out.getvalue(), description)


def _inline(document: bytes, description: str) -> str:
    """Removes what a page does not need (prolog, namespaces, ids, styles of its own) and names the colours."""
    root = ET.fromstring(document)
    referenced = {a or b for a, b in re.findall(r'"#([\w-]+)"|url\(#([\w-]+)\)', document.decode())}
    for element in root.iter():
        attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        if attributes.get("id") not in referenced:
            attributes.pop("id", None)
        for paint in ("fill", "stroke"):  # of hatches; var() works in a style only
            if paint in attributes:
                attributes["style"] = f"{paint}: {attributes.pop(paint)}; " + attributes.get("style", "")
        if "style" in attributes:
            attributes["style"] = _restyle(attributes["style"])
        element.attrib = attributes
        element.tag = element.tag.rpartition("}")[2]
        element.tail = None
        if element.tag != "text":
            element.text = None
    _remove(root, lambda e: e.tag in ("style", "metadata"))
    _remove(root, lambda e: e.tag == "defs" and not len(e))
    box = root.attrib["viewBox"]
    width = float(box.split()[2])
    style = f"width:100%;max-width:{width:.0f}px;min-width:{SHRINK * width:.0f}px"
    root.attrib = {"viewBox": box, "role": "img", "aria-label": description, "style": style}
    return ET.tostring(root, "unicode")


def _remove(root: ET.Element, unwanted: Callable[[ET.Element], bool]) -> None:
    for parent in root.iter():
        for child in list(parent):
            if unwanted(child):
                parent.remove(child)


def _restyle(style: str) -> str:
    style = re.sub(r"#[0-9a-f]{6}", lambda m: f"var(--{_NAMES[m[0]]})" if m[0] in _NAMES else m[0], style)
    return re.sub(r"font: ([^;]*?)([\d.]+)px [^;]*", r"font: \1\2px var(--sans)", style)
