"""Figures as SVG whose bytes depend on what is drawn and on matplotlib alone.

matplotlib is imported when the first figure is drawn (it takes most of a second), and
without pyplot: no window system, no global list of figures.
"""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FONT_SIZE = 12.0
"""Height of letters, pixels."""


def draw_svg(
    draw: Callable[["Figure"], None], *, name: str, width: int, height: int
) -> str:
    """Draw a transparent figure whose text stays text.

    Args:
      draw: puts everything on an empty figure of 72 dots per inch.
      name: what the ids inside the drawing are derived from.
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
        "svg.hashsalt": name,
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
    return text.getvalue()
