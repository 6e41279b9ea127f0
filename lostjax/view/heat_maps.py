"""Heat maps as an inline SVG element: a value in each cell on a colour of its own."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from lostjax.typing import Float
from lostjax.view.axes import add_axes, label_x
from lostjax.view.characters import replace_controls
from lostjax.view.svg import INK, draw_element, mix_paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STRONGEST = 0.6  # share of colour: letters stay readable in front of it
_LETTER = 7.4  # pixels across, on average


def draw_heat_map(
    values_YX: Float[np.ndarray, "Y X"],
    *,
    name: str,
    description: str,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[str],
    y_ticks: Sequence[str],
    form: Callable[[float], str],
    size: tuple[int, int],
) -> Markup:
    """Draw a table of values as coloured cells; the lowest value is the strongest.

    Args:
      values_YX: (Y, X), the first row at the top; a cell that is not finite stays
        without colour.
      name: unique in the page; seeds the ids inside the drawing.
      description: text for a reader who does not see the drawing.
      x_label: quantity and unit of the columns.
      y_label: quantity and unit of the rows.
      x_ticks: X names of the columns.
      y_ticks: Y names of the rows.
      form: formats a value.
      size: width and height in CSS pixels.

    Returns:
      An `<svg>` element; everything in it is escaped.

    Raises:
      ValueError: if the names are not as many as the rows and columns.
    """
    if values_YX.shape != (len(y_ticks), len(x_ticks)):
        raise ValueError(
            f"values_YX of shape {values_YX.shape}: must have {len(y_ticks)} rows and "
            f"{len(x_ticks)} columns, as many as they have names"
        )

    def draw(figure: "Figure") -> None:
        left = 16 + _LETTER * max(map(len, y_ticks))
        axes = add_axes(figure, size, y_label=y_label, left=left)
        _draw_cells(axes, values_YX, form=form)
        for axis, names in ((axes.xaxis, x_ticks), (axes.yaxis, y_ticks)):
            names = [replace_controls(name) for name in names]
            axis.set_ticks(np.arange(len(names)) + 0.5, names, parse_math=False)
        axes.tick_params(colors=INK["--soft"], length=0, pad=6)
        axes.spines[:].set_visible(False)
        label_x(axes, x_label)

    return draw_element(draw, name=name, description=description, size=size)


def _draw_cells(
    axes: "Axes", values_YX: np.ndarray, *, form: Callable[[float], str]
) -> None:
    from matplotlib.patches import Rectangle

    rows, columns = values_YX.shape
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    finite = values_YX[np.isfinite(values_YX)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    for (row, column), value in np.ndenumerate(values_YX):
        colour: str = "none"
        if np.isfinite(value):
            share = 1.0 if high == low else (high - value) / (high - low)
            colour = mix_paper(_STRONGEST * share)
        cell = Rectangle(
            (column, row), 1, 1, facecolor=colour, edgecolor=INK["--rule"], linewidth=1
        )
        axes.add_patch(cell)
        axes.text(
            column + 0.5,
            row + 0.5,
            form(float(value)),
            color=INK["--ink"],
            ha="center",
            va="center",
            parse_math=False,
        )
