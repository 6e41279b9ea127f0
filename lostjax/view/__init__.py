"""Curves over training steps as inline SVG, in the colours of the page around them.

The only door to matplotlib in the trainer: `draw_curves` gives an `<svg>` element.
"""

from lostjax.view.curves import BINS, SERIES, Curve, draw_curves

__all__ = ["BINS", "SERIES", "Curve", "draw_curves"]
