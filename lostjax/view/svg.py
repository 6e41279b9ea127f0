"""A drawing as an inline SVG element, in the colours of the page around it.

The element has no fixed size, no external reference and no duplicate id. Its colours
are CSS variables, so that one drawing serves a light and a dark page: matplotlib is
given colours that no one would choose, which are replaced by the page's variables.
"""

import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from lostjax.view.document import draw_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = {
    "--ink": "#010203",
    "--soft": "#040506",
    "--rule": "#070809",
    "--series-1": "#0a0b0c",
    "--series-2": "#0d0e0f",
    "--series-3": "#131415",
    "--alarm": "#101112",
}
"""What to draw in for each of the page's variables."""


def mix_ink(share: float) -> str:
    """Give what to draw in for a colour between the second series (0) and the first."""
    return f"#1617{round(100 * share):02x}"


def render_svg(
    draw: Callable[["Figure"], None],
    *,
    name: str,
    description: str,
    size: tuple[int, int],
) -> str:
    """Draw on a new figure and give it as an element.

    Args:
        draw: Takes a figure of one point for each CSS pixel.
        name: Unique in the page; begins the ids inside the drawing.
        description: What a reader who does not see the drawing is told.
        size: Width and height in CSS pixels.

    Returns:
        An `<svg>` element; everything in it is escaped.
    """
    width, height = size
    svg = draw_svg(draw, name=name, width=width, height=height)
    body = _use_variables(_inline(svg, name))
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(description)}">\n{body}'
    )


def _inline(svg: str, name: str) -> str:
    """Turn a stand-alone SVG file into the inside of one of a page's elements."""
    body = svg[svg.index("<svg") :]
    body = body[body.index(">") + 1 :].strip()
    used = set(re.findall(r"(?:url\(|href=\")#([\w-]+)", body))
    body = re.sub(
        r' id="([\w.-]+)"',
        lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "",
        body,
    )
    body = re.sub(r"(url\(|xlink:href=\"|href=\")#", rf"\1#{name}-", body)
    body = body.replace("xlink:href=", "href=")
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    return re.sub(r"\n\s*", "\n", body)


def _use_variables(body: str) -> str:
    """Replace font and colours by the page's."""
    body = re.sub(r"'DejaVu Sans'[^;\"]*", "sans-serif", body)
    for variable, colour in INK.items():
        body = body.replace(colour, f"var({variable})")
    return re.sub(r"#1617([0-9a-f]{2})\b", _mix_variables, body)


def _mix_variables(match: re.Match[str]) -> str:
    share = int(match[1], 16)
    return f"color-mix(in oklab, var(--series-1) {share}%, var(--series-2))"
