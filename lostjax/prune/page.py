"""The result of pruning a run: numbers for JSON, and a page."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lostjax.analysis import EssentialSparsity
from lostjax.prune.curve import (
    MAGNITUDE,
    RANDOM,
    WHOLE,
    Passages,
    Scored,
    bits_per_byte,
)
from lostjax.view.axes import Axis
from lostjax.view.curves import Curve, draw_curves
from lostjax.view.numbers import MISSING, format_count, format_loss
from lostjax.view.page import Bar, Drawing, Table, render_page

_SIZE = (560, 320)
_NARROW = (340, 260)
_CLOSE = 10
"""The close-up ends at this multiple of the tolerance."""


class Pruning(NamedTuple):
    """What was measured."""

    title: str
    scored: Sequence[Scored]
    tokens_R: np.ndarray
    passages: Passages
    plateau: EssentialSparsity
    tolerance: float
    unfit: Sequence[str]
    """Matrices that an N:M pattern does not fit."""
    removed: Sequence[tuple[str, int, float]]
    """Path, weights and removed share of each matrix."""
    removed_by: str
    """What is removed, in words."""

    def bits(self, scored: Scored) -> float:
        """Bits per byte with a mask."""
        return bits_per_byte(scored.nats_R, self.tokens_R, self.passages)

    @property
    def whole(self) -> float:
        """Bits per byte of the model as it is."""
        return self.bits(self.of(WHOLE)[0])

    def of(self, *kinds: str) -> list[Scored]:
        """Return the scores of some kinds of masks."""
        return [each for each in self.scored if each.setting.kind in kinds]

    def patterns(self) -> list[Scored]:
        """Return the scores of N:M patterns."""
        return [each for each in self.scored if ":" in each.setting.kind]

    def rise(self, scored: Scored) -> float:
        """Rise of the bits per byte by a mask, as a share of the whole model's."""
        return self.bits(scored) / self.whole - 1


def describe_plateau(plateau: EssentialSparsity, *, tolerance: float) -> str:
    """Write the essential sparsity as a sentence."""
    loss = f"more than {100 * tolerance:g} % more bits per byte"
    if plateau.is_censored:
        return (
            f"Every tested share, up to {_percent(plateau.tested)}, can be removed "
            f"without {loss}; where that ends is not known."
        )
    low, high = (f"{100 * end:.1f}" for end in (plateau.low, plateau.high))
    return (
        f"{100 * plateau.sparsity:.1f} % of the weights of its matrices (95 % interval "
        f"{low} to {high} %) can be removed without {loss}."
    )


def list_values(pruning: Pruning) -> dict[str, Any]:
    """List the numbers, for JSON."""
    plateau = pruning.plateau._asdict()
    return {
        "run": pruning.title,
        "tolerance": pruning.tolerance,
        "tokens": int(pruning.tokens_R.sum()),
        "passages": len(pruning.tokens_R),
        "essential_sparsity": {k: _finite(v) for k, v in plateau.items()},
        "curve": [
            {
                "mask": each.setting.kind,
                "sparsity": each.sparsity,
                "bits_per_byte": _finite(pruning.bits(each)),
            }
            for each in pruning.scored
        ],
        "matrices_left_whole": list(pruning.unfit),
        "removed": {path: share for path, _, share in pruning.removed},
        "removed_by": pruning.removed_by,
    }


def render_pruning(pruning: Pruning) -> str:
    """Render the page."""
    plateau = pruning.plateau
    headline = [
        ("essential sparsity", _at_least(plateau)),
        (
            "95 % interval",
            MISSING
            if plateau.is_censored
            else f"{100 * plateau.low:.1f} to {100 * plateau.high:.1f} %",
        ),
        ("bits per byte, whole", format_loss(pruning.whole)),
        ("weights in matrices", format_count(sum(n for _, n, _ in pruning.removed))),
    ]
    return render_page(
        "prune.html",
        {
            "title": pruning.title,
            "headline": headline,
            "finding": describe_plateau(plateau, tolerance=pruning.tolerance),
            "drawings": [_draw_close(pruning), _draw_all(pruning)],
            "curve": _tabulate(pruning),
            "notes": _notes(pruning),
            "matrices": [
                Bar(path, f"{100 * share:.1f} % of {format_count(count)}", share)
                for path, count, share in pruning.removed
            ],
            "matrices_caption": f"Share of each matrix in {pruning.removed_by}",
        },
    )


def _at_least(plateau: EssentialSparsity) -> str:
    text = f"{100 * plateau.sparsity:.1f} %"
    return f"{text} or more" if plateau.is_censored else text


def _tabulate(pruning: Pruning) -> Table:
    whole = pruning.of(WHOLE)[0]
    random = {each.setting.sparsity: each for each in pruning.of(RANDOM)}
    rows = [["0 %", format_loss(pruning.whole), MISSING, MISSING]]
    for each in pruning.of(MAGNITUDE):
        other = random.get(each.setting.sparsity, whole)
        rows.append(
            [
                _percent(each.setting.sparsity),
                format_loss(pruning.bits(each)),
                _format_rise(pruning.rise(each)),
                format_loss(pruning.bits(other)),
            ]
        )
    for each in pruning.patterns():
        rows.append(
            [
                f"{each.setting.kind}, {_percent(each.sparsity)}",
                format_loss(pruning.bits(each)),
                _format_rise(pruning.rise(each)),
                MISSING,
            ]
        )
    return Table(
        "Held-out bits per byte by the share of removed weights",
        ["removed", "smallest removed", "rise", "removed at random"],
        rows,
    )


def _draw_close(pruning: Pruning) -> Drawing:
    limit = _CLOSE * pruning.tolerance
    curves = []
    for label, kind in (("smallest", MAGNITUDE), ("random", RANDOM)):
        points = [(0.0, 0.0)]
        for each in pruning.of(kind):
            rise = pruning.rise(each)
            if not rise <= limit:
                break
            points.append((100 * each.setting.sparsity, 100 * rise))
        x, y = np.array(points).T
        curves.append(Curve(label, x, y, sparse=True))

    return _draw(
        curves,
        name="plateau",
        description="Rise of the bits per byte, near the end of the plateau.",
        y=Axis("rise of bits per byte (%)"),
        levels={"tolerated": 100 * pruning.tolerance},
        note=f"Curves end where the rise passes {100 * limit:g} %.",
    )


def _draw_all(pruning: Pruning) -> Drawing:
    curves = []
    for label, kind in (("smallest", MAGNITUDE), ("random", RANDOM)):
        points = [each for each in pruning.of(WHOLE, kind) if _is_drawn(pruning, each)]
        x = np.array([100 * each.setting.sparsity for each in points])
        y = np.array([pruning.bits(each) for each in points])
        curves.append(Curve(label, x, y, sparse=True))
    for each in pruning.patterns():
        if _is_drawn(pruning, each):
            x, y = np.array([100 * each.sparsity]), np.array([pruning.bits(each)])
            curves.append(Curve(each.setting.kind, x, y, sparse=True))
    return _draw(
        curves,
        name="curve",
        description="Bits per byte by the share of removed weights.",
        y=Axis("bits per byte"),
    )


def _draw(
    curves: Sequence[Curve],
    *,
    name: str,
    description: str,
    y: Axis,
    levels: dict[str, float] | None = None,
    note: str = "",
) -> Drawing:
    def draw(size: tuple[int, int], suffix: str) -> Any:
        return draw_curves(
            curves,
            name=name + suffix,
            description=description,
            x=Axis("removed weights (%)"),
            y=y,
            size=size,
            levels=levels or {},
        )

    return Drawing(draw(_SIZE, ""), draw(_NARROW, "-narrow"), note=note)


def _notes(pruning: Pruning) -> list[str]:
    notes = [
        f"Scored on {format_count(len(pruning.tokens_R))} passages of the held-out "
        f"text ({format_count(pruning.tokens_R.sum())} tokens), the same ones for "
        "every mask. The interval is from bootstrap samples of the passages; between "
        "tested shares the curve is taken as straight. Nothing was trained after "
        "pruning.",
        "Embedding, head and norms stay whole. Weights of all matrices are ranked "
        "together by their size. In a product of two factors that size can move from "
        "one factor to the other without any change of the model, so that shares of "
        "factors depend on how they were trained.",
    ]
    if pruning.unfit:
        names = ", ".join(pruning.unfit)
        notes.append(
            f"The pattern does not divide the inputs of {names}, which stay whole."
        )
    return notes


def _is_drawn(pruning: Pruning, scored: Scored) -> bool:
    return math.isfinite(pruning.bits(scored))


def _format_rise(rise: float) -> str:
    # + 0: a rise of -0.01 % is not -0.0 %.
    return f"{round(100 * rise, 1) + 0:+.1f} %" if math.isfinite(rise) else MISSING


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _finite(value: float | bool) -> float | bool | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None
