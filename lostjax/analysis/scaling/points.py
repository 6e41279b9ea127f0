"""Points of loss curves: what a scaling law is fitted to.

    points = make_points(n_params=.., tokens=.., losses=.., runs=..)

A point is a checkpoint of a run: the size of its model, the tokens it has seen, and its
loss there. Points of one run are correlated, so every point says which run it is of.
What cannot be such a point is refused with the likely reason: a perplexity instead of a
loss, a logarithm instead of a number of tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lostjax.typing import Bool, Float, Int

Numbers = Sequence[float | int] | np.ndarray
"""One number per point."""

Amounts = Numbers | float | int
"""A number, or several."""

LARGEST_LOSS = 15.0
"""A loss above it, nats per token, is refused: guessing among 3 million tokens costs
that, so the number is rather a perplexity."""

_FEWEST_TOKENS = 100.0


class UnidentifiedLaw(ValueError):
    """Points that do not determine a law; the message says what is missing."""


class LossPoints(NamedTuple):
    """Checkpoints of runs, in any order."""

    n_params: Float[np.ndarray, "P"]
    """N: number of parameters of the model."""
    tokens: Float[np.ndarray, "P"]
    """D: tokens seen up to the checkpoint, repeated ones counted each time."""
    losses: Float[np.ndarray, "P"]
    """Loss there, nats per token."""
    runs: Int[np.ndarray, "P"]
    """Number of the run that the checkpoint is of, from 0."""

    def take(self, kept: Bool[np.ndarray, "P"] | Int[np.ndarray, "K"]) -> "LossPoints":
        """Take some of the points, by a mask or by their places."""
        return LossPoints(*(values[kept] for values in self))

    @property
    def sizes(self) -> np.ndarray:
        """Different numbers of parameters, rising."""
        return np.unique(self.n_params)


def make_points(
    *,
    n_params: Numbers,
    tokens: Numbers,
    losses: Numbers,
    runs: Sequence[object] | np.ndarray | None = None,
) -> LossPoints:
    """Check points of loss curves, and put them together.

    Args:
      n_params: number of parameters of each point's model, positive.
      tokens: tokens seen up to each point, at least 100.
      losses: loss at each point, nats per token, positive and at most 15.
      runs: names of the runs, equal for points of one run; default: one run a size.

    Returns:
      The points.

    Raises:
      ValueError: if lengths differ, or a value is missing, out of range, or looks like
        a perplexity or a logarithm.
    """
    sizes = require_positive("n_params", n_params)
    seen = require_positive("tokens", tokens)
    found = require_positive("losses", losses)
    if not len(sizes) == len(seen) == len(found):
        raise ValueError(
            f"losses: got {len(found)} for {len(sizes)} n_params and {len(seen)} tokens"
        )
    if not len(found):
        raise ValueError("losses: there are none")
    if seen.max() < _FEWEST_TOKENS:
        raise ValueError(
            f"tokens: at most {seen.max():g}; give their number, not its logarithm"
        )
    if found.max() > LARGEST_LOSS:
        raise ValueError(
            f"losses={found.max():g}: above {LARGEST_LOSS:g} nats a token; if these "
            "are perplexities, take their logarithm"
        )
    named = list(sizes) if runs is None else list(runs)
    if len(named) != len(found):
        raise ValueError(f"runs: got {len(named)} for {len(found)} losses")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(named))}
    return LossPoints(sizes, seen, found, np.array([numbers[name] for name in named]))


def cut_tokens(points: LossPoints, *, fewest: float | int = 1e10) -> LossPoints:
    """Leave out early checkpoints, which follow the warm-up and not the law.

    Args:
      points: of any runs.
      fewest: tokens up to which a checkpoint is early; the paper's choice is 10 billion
        tokens, for models of 0.1 to 200 billion parameters.

    Returns:
      The points with more tokens.

    Raises:
      UnidentifiedLaw: if none is left.
    """
    kept = points.tokens > fewest
    if not kept.any():
        raise UnidentifiedLaw(
            f"all checkpoints have at most {fewest:g} tokens; the largest has "
            f"{points.tokens.max():g}"
        )
    return points.take(kept)


def thin_points(points: LossPoints, *, per_run: int = 40) -> LossPoints:
    """Take a few checkpoints of each run, evenly spaced in the logarithm of tokens.

    Consecutive checkpoints say nearly the same; without thinning, the run that was
    evaluated most often decides a fit.

    Args:
      points: of any runs.
      per_run: checkpoints that a run keeps at most, at least 2; the last is kept.

    Raises:
      ValueError: if `per_run` is below 2.
    """
    if per_run < 2:
        raise ValueError(f"per_run={per_run}: must be at least 2")
    kept: list[int] = []
    for run in np.unique(points.runs):
        places = np.flatnonzero(points.runs == run)
        seen = np.log(points.tokens[places])
        wanted = np.linspace(seen.min(), seen.max(), per_run)
        nearest = np.abs(seen[:, None] - wanted).argmin(axis=0)
        kept.extend(places if len(places) <= per_run else places[np.unique(nearest)])
    return points.take(np.sort(np.array(kept)))


def require_positive(name: str, values: Numbers) -> np.ndarray:
    """Convert numbers to an array, and check that all are positive and finite."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name}: must be a sequence, has shape {array.shape}")
    wrong = array[~((array > 0) & np.isfinite(array))]
    if wrong.size:
        raise ValueError(f"{name}={wrong[0]:g}: must be positive and finite")
    return array


def as_array(values: Amounts) -> np.ndarray:
    """Convert numbers to float64, in which powers of a billion keep their digits."""
    return np.asarray(values, np.float64)
