"""A board of small grey images, row by row, as an SVG file that stands alone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lostjax.view.svg import INK, draw_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE, _GAP, _LABEL, _HEAD = 56, 6, 120, 24  # pixels


class CropRow(NamedTuple):
    """A row of images, and what is said of it."""

    label: str
    images: Sequence[np.ndarray]
    """(H, W) each, in [0, 1], of any size."""
    heats: Sequence[np.ndarray | None]
    """(H, W) each, or None: drawn over its image, the largest the strongest."""


def draw_crops(rows: Sequence[CropRow], *, name: str, heads: Sequence[str]) -> str:
    """Draw rows of images with a label each, and heads over their columns.

    Args:
      rows: as many images each as `heads`.
      name: seeds the ids inside the drawing.
      heads: text over each column; empty for none.

    Returns:
      An SVG document; images are embedded as PNG.

    Raises:
      ValueError: if a row does not have an image and a heat for each column.
    """
    for row in rows:
        if not len(row.images) == len(row.heats) == len(heads):
            raise ValueError(
                f"rows: {row.label!r} has {len(row.images)} images and "
                f"{len(row.heats)} heats, must have {len(heads)} of each"
            )
    width = _LABEL + len(heads) * (_SIDE + _GAP)
    height = _HEAD + len(rows) * (_SIDE + _GAP)

    def draw(figure: "Figure") -> None:
        for column, head in enumerate(heads):
            x = (_LABEL + column * (_SIDE + _GAP)) / width
            figure.text(x, 1 - 16 / height, head, color=INK["--ink"], parse_math=False)
        for place, row in enumerate(rows):
            top = _HEAD + place * (_SIDE + _GAP)
            middle = 1 - (top + _SIDE / 2) / height
            figure.text(
                0, middle, row.label, va="center", color=INK["--ink"], parse_math=False
            )
            for column, (image, heat) in enumerate(
                zip(row.images, row.heats, strict=True)
            ):
                left = _LABEL + column * (_SIDE + _GAP)
                frame = (
                    left / width,
                    1 - (top + _SIDE) / height,
                    _SIDE / width,
                    _SIDE / height,
                )
                _draw_image(figure, frame, image, heat)

    return draw_svg(draw, name=name, width=width, height=height)


def _draw_image(
    figure: "Figure",
    frame: tuple[float, float, float, float],
    image: np.ndarray,
    heat: np.ndarray | None,
) -> None:
    axes = figure.add_axes(frame)
    axes.set_axis_off()
    axes.imshow(1 - image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    if heat is not None and (most := float(np.max(heat))) > 0:
        strength = np.clip(heat / most, 0, 1)
        axes.imshow(
            np.ones_like(heat), cmap="Reds", vmin=0, vmax=1.3, alpha=0.8 * strength
        )
