"""Figures as SVG: files that stand alone, and elements in the colours of their page.

The bytes depend on what is drawn and on matplotlib alone. matplotlib is imported when
the first figure is drawn (it takes most of a second), and without pyplot: no window
system, no global list of figures.

An element has no fixed size, no external reference and no duplicate id. Its colours
are CSS variables, so that one drawing serves a light and a dark page: matplotlib draws
in colours that no one would choose, and those are replaced by the page's variables.
"""

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from lostjax.view.characters import replace_controls

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FONT_SIZE = 12.0
"""Height of letters, pixels."""

INK = {
    "--ink": "#010203",
    "--soft": "#040506",
    "--rule": "#070809",
    "--series-1": "#0a0b0c",
    "--series-2": "#0d0e0f",
    "--series-3": "#131415",
    "--alarm": "#101112",
}
"""The colour to draw in for each of the page's variables."""

_VARIABLES = {colour: f"var({variable})" for variable, colour in INK.items()}
_SERIES_MIX, _PAPER_MIX = "#1617", "#1819"  # then two digits: per cent of series 1
_MIXED_WITH = {_SERIES_MIX: "var(--series-2)", _PAPER_MIX: "var(--paper)"}
_COLOUR = re.compile("#[0-9a-f]{6}")


def mix_series(share: float) -> str:
    """Return the colour to draw in for a mix of the second series (0) and the first."""
    return f"{_SERIES_MIX}{round(100 * share):02x}"


def mix_paper(share: float) -> str:
    """Return the colour to draw in for a mix of the paper (0) and the first series."""
    return f"{_PAPER_MIX}{round(100 * share):02x}"


def draw_svg(
    draw: Callable[["Figure"], None], *, name: str, width: int, height: int
) -> str:
    """Draw a transparent figure whose text stays text.

    Args:
      draw: puts everything on an empty figure of 72 dots per inch.
      name: seeds the ids inside the drawing.
      width: in pixels.
      height: in pixels.

    Returns:
      An SVG document.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    options: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": replace_controls(name),
        "font.family": "DejaVu Sans",
        "font.size": FONT_SIZE,
        "path.simplify": False,
        "axes.unicode_minus": False,
    }
    with matplotlib.rc_context(options):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        FigureCanvasSVG(figure)
        draw(figure)
        text = io.StringIO()
        figure.savefig(
            text,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    return replace_controls(text.getvalue())


def draw_element(
    draw: Callable[["Figure"], None],
    *,
    name: str,
    description: str,
    size: tuple[int, int],
) -> Markup:
    """Draw a figure as an element of a page.

    Args:
      draw: as for `draw_svg`.
      name: unique in the page; seeds the ids inside the drawing.
      description: text for a reader who does not see the drawing.
      size: width and height in CSS pixels.

    Returns:
      An `<svg>` element; everything in it is escaped.
    """
    width, height = size
    drawn = ElementTree.fromstring(
        draw_svg(draw, name=name, width=width, height=height)
    )
    root = ElementTree.Element(
        "svg",
        {
            "viewBox": f"0 0 {width} {height}",
            "role": "img",
            "aria-label": replace_controls(description),
        },
    )
    root.extend(drawn)
    _strip_for_page(root)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _strip_for_page(root: ElementTree.Element) -> None:
    """Remove what only a file needs, and draw in the page's colours."""
    values = [value for each in root.iter() for value in each.attrib.values()]
    used = {name for value in values for name in re.findall(r"#([\w-]+)", value)}
    for parent in list(root.iter()):
        for child in list(parent):
            # matplotlib's own style rules would hold for all of the page.
            if _local_name(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for each in root.iter():
        each.tag = _local_name(each.tag)
        attributes = {_local_name(key): value for key, value in each.attrib.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        each.attrib = {
            key: value if key == "aria-label" else _COLOUR.sub(_page_colour, value)
            for key, value in attributes.items()
        }
        if each.tag != "text":
            each.text = None
        each.tail = None


def _local_name(name: str) -> str:
    """Drop the namespace, which HTML does not write."""
    return name.rpartition("}")[2]


def _page_colour(match: re.Match[str]) -> str:
    colour = match[0]
    if (base := _MIXED_WITH.get(colour[:5])) is None:
        return _VARIABLES.get(colour, colour)
    return f"color-mix(in oklab, var(--series-1) {int(colour[5:], 16)}%, {base})"
