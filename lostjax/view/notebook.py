"""Pages and figures for notebooks, which show what has a `_repr_html_` or `_repr_png_`.

A page goes into a frame: its style sheet would otherwise restyle the notebook, and the
notebook's the page.
"""

import html
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure

_HEIGHT = 600  # CSS pixels
_DOTS_PER_INCH = 144  # twice a screen's: sharp on dense screens


def frame_page(page: str, *, title: str) -> str:
    """Frame a whole HTML document, so that it can stand inside another one.

    Args:
      page: the document, which needs no other file.
      title: of the frame, for a reader who does not see it.

    Returns:
      An `<iframe>` element that holds the document; scripts in it do not run.
    """
    return (
        f'<iframe title="{html.escape(title)}" sandbox="" '
        f'style="width:100%;height:{_HEIGHT}px;border:0" '
        f'srcdoc="{html.escape(page)}"></iframe>'
    )


def plot_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, x_label: str, y_label: str
) -> "Figure":
    """Plot curves into a matplotlib figure that a notebook shows.

    The figure is made without pyplot, so that it is shown once, needs no `close`, and
    leaves the reader's backend as it is.

    Args:
      curves: places x (P,) and values y (P,) by label; a lone point is marked.
      x_label: words under the horizontal axis.
      y_label: words beside the vertical axis.

    Returns:
      The figure, with one pair of axes.
    """
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """A figure that shows itself in a notebook."""

        def _repr_png_(self) -> bytes:
            png = io.BytesIO()
            self.savefig(png, format="png", dpi=_DOTS_PER_INCH)
            return png.getvalue()

    figure = NotebookFigure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for label, (x, y) in curves.items():
        # A line through one point would be invisible.
        axes.plot(x, y, label=label, marker="o" if len(x) < 2 else None)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    if curves:
        axes.legend()
    return figure
