"""Turns matplotlib figures into SVG elements that follow the colours of an HTML page, and into files."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    "ink": "#191d24", "muted": "#5d6675", "line": "#e1e5ea", "band": "#f1f3f6", "relevance": "#d9780f",
    "card": "#ffffff", "on-bits": "#fffffe", "float": "#8a93a1", "up": "#d2301f", "down": "#2563c9",
    "b1": "#7f8f1f", "b2": "#6f9a2c", "b3": "#3c9a55", "b4": "#1c9a8b",
    "b5": "#2b88b0", "b6": "#3f74c9", "b7": "#4f5cc0", "b8": "#6440ad",
}  # fmt: skip
"""The light colours of a page, which exported plots have. On a page each becomes the CSS variable of its name, which
has another value on dark pages. The names are looked up by colour, so all colours differ."""
_NAMES = {colour: name for name, colour in COLOURS.items()}
MIN_SCALE = 0.9
"""The smallest scale of a plot on a narrow screen, where it then scrolls: its text must stay readable."""


def bit_colour(bits: int | None) -> str:
    """Returns the colour of a bit width, the same from 8 bits up; None is floating point."""
    return COLOURS["float"] if bits is None else COLOURS[f"b{min(bits, 8)}"]


def draw(name: str, description: str, figure: Callable[[], Figure]) -> str:
    """Builds the figure and returns it as one `<svg>` element; the same figure gives the same bytes.

    One unit of the element is one CSS pixel and a 72nd of an inch of the figure.

    Args:
        name: keeps the ids of several figures on a page apart.
        description: for screen readers.
    """
    with own_style(name):
        document = _svg(figure(), transparent=True)
    return _inline(document, description)


def pictures(figures: Mapping[str, Figure]) -> dict[str, bytes]:
    """Draws every figure as NAME.png (144 dpi) and NAME.svg; returns contents by file name.

    The same figures give the same bytes. Text in an SVG file stays text.
    """
    files: dict[str, bytes] = {}
    for name, figure in figures.items():
        picture = io.BytesIO()
        with own_style(name):
            drawing = _svg(figure, transparent=False)
            figure.savefig(picture, format="png", dpi=144, metadata={"Software": None})
        files |= {f"{name}.png": picture.getvalue(), f"{name}.svg": drawing}
    return files


@contextmanager
def own_style(salt: str) -> Iterator[None]:
    """Sets matplotlib's defaults, whatever the user's matplotlibrc says; `salt` makes ids in an SVG reproducible."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.fonttype"] = "none"
        matplotlib.rcParams["font.family"] = ["DejaVu Sans"]
        matplotlib.rcParams["svg.hashsalt"] = salt
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's browser draws the text
        yield


def _svg(figure: Figure, *, transparent: bool) -> bytes:
    out = io.BytesIO()
    # All four None: otherwise a metadata block with the date and matplotlib's version is written.
    nothing = {key: None for key in ("Date", "Creator", "Format", "Type")}
    figure.savefig(out, format="svg", transparent=transparent, metadata=nothing)
    return out.getvalue()


def _inline(document: bytes, description: str) -> str:
    """Removes what a page does not need (prolog, namespaces, ids, style elements) and names the colours."""
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
    style = f"width:100%;max-width:{width:.0f}px;min-width:{MIN_SCALE * width:.0f}px"
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
