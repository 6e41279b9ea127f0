"""The sets, and a split of one into subjects that train, choose and judge."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from lostjax import losses, metrics
from lostjax.data import (
    LEAKS,
    Lifetimes,
    encode_lifetimes,
    load_scikit_survival,
    load_survset,
)

BINS, SHORT_BINS = 10, 10
"""Long ones between tenths of the events' times, and short ones between twentieths up
to the median."""

HELD_ROWS = 2000
"""Who choose at most, and who judge: pairs are counted at every place to stop."""
CLICK_SPREAD = 1.68
"""Of the logs of weights: a fifth of the levels has four fifths of the weight."""


def made_set() -> Lifetimes:
    """Draw lifetimes for `smoke`, which has no packages: exponential, half censored."""
    generator = np.random.default_rng(0)
    numbers = generator.normal(size=(400, 3)).astype(np.float32)
    times = generator.exponential(np.exp(numbers[:, 0] - numbers[:, 1]))
    ends = generator.exponential(2.0, size=400)
    return Lifetimes(
        times_B=np.minimum(times, ends).astype(np.float32),
        events_B=times <= ends,
        numbers_BN=numbers,
        categories_BC=generator.integers(0, 6, size=(400, 1)).astype(np.int32),
        number_names=("x", "y", "z"),
        category_names=("group",),
        levels=(tuple("abcdef"),),
        licence="none",
        source="made",
    )


SETS: dict[str, Callable[[], Lifetimes]] = {
    "support2": partial(load_survset, "support2", without=LEAKS["support2"]),
    "Framingham": partial(load_survset, "Framingham"),
    "rott2": partial(load_survset, "rott2"),
    "flchain": partial(load_scikit_survival, "flchain", without=LEAKS["flchain"]),
    "hdfail": partial(load_survset, "hdfail"),
    "made": made_set,
}


class Part(NamedTuple):
    """Subjects, and their times in all forms that are learnt."""

    x_BM: Any
    times_B: Any
    events_B: Any
    long: losses.DiscreteTimes
    short: losses.DiscreteTimes
    log_times_B: Any
    """Of mean 0 and deviation 1 where it is trained on."""
    clicks_B: Any
    clicked_B: Any
    """Whether it is among the fifth with most clicks."""


class Held(NamedTuple):
    """Subjects that are not trained on."""

    part: Part
    censoring: metrics.Censoring


class Problem(NamedTuple):
    """A split of a set."""

    train: Part
    held: Held
    """Leaves (2, ...): who choose, and who judge."""
    horizons_H: Any
    """Inner edges of the long bins; the middle one ends the short ones."""
    log_horizons_H: Any
    """As `Part.log_times_B`."""
    batches_SB: Any
    """Rows of `train` for each step."""


def split_set(
    lifetimes: Lifetimes,
    *,
    seed: int,
    most_rows: int,
    batches: tuple[int, int],
    shuffled: bool = False,
) -> Problem:
    """Draw who trains, chooses and judges, and compute the bins of those who train.

    Args:
      lifetimes: a set.
      seed: of the split, and of the weights.
      most_rows: subjects at most.
      batches: number of steps, and subjects in each.
      shuffled: give the training subjects each other's covariates.
    """
    generator = np.random.default_rng(seed)
    rows = generator.permutation(len(lifetimes.times_B))[:most_rows]
    first, second = len(rows) * 3 // 5, len(rows) * 4 // 5
    train, choose, judge = rows[:first], rows[first:second], rows[second:]
    x_BM = encode_lifetimes(lifetimes, train_rows=train)
    clicks_B = draw_clicks(lifetimes, generator)
    times_B, events_B = lifetimes.times_B, lifetimes.events_B
    log_times_B = np.log(np.maximum(times_B, np.quantile(times_B[train], 0.01)))
    mean, deviation = log_times_B[train].mean(), log_times_B[train].std()
    died_B = times_B[train][events_B[train]]
    edges = np.quantile(died_B, np.arange(1, 2 * BINS) / (2 * BINS))
    horizons = edges[1::2]
    before, after = [-1.0], [times_B.max() + 1]
    bins = partial(losses.discretize_times, times_B, events=events_B)
    long = bins(edges=np.concatenate([before, horizons, after]))
    short = bins(edges=np.concatenate([before, edges[:SHORT_BINS]]))

    def take(rows: np.ndarray, covariates: np.ndarray) -> Part:
        return Part(
            x_BM[covariates],
            times_B[rows],
            events_B[rows],
            losses.DiscreteTimes(long.bins[rows], long.events[rows]),
            losses.DiscreteTimes(short.bins[rows], short.events[rows]),
            ((log_times_B - mean) / deviation)[rows].astype(np.float32),
            clicks_B[rows],
            clicks_B[rows] >= np.quantile(clicks_B[rows], 0.8),
        )

    def hold(rows: np.ndarray) -> Held:
        part = take(rows, rows)
        curve = metrics.fit_censoring(part.times_B, events_B=part.events_B)
        return Held(part, curve)

    others = generator.permutation(train) if shuffled else train
    size = min(len(choose), len(judge), HELD_ROWS)
    held = [hold(rows[:size]) for rows in (choose, judge)]
    return Problem(
        take(train, others),
        jax.tree.map(lambda *leaves: np.stack(leaves), *held),
        horizons.astype(np.float32),
        ((np.log(horizons) - mean) / deviation).astype(np.float32),
        generator.integers(0, len(train), size=batches, dtype=np.int32),
    )


def draw_clicks(lifetimes: Lifetimes, generator: np.random.Generator) -> np.ndarray:
    """Draw a weight for each level of the category with most levels."""
    widest = int(np.argmax([len(each) for each in lifetimes.levels]))
    levels = len(lifetimes.levels[widest])
    weights = np.exp(CLICK_SPREAD * generator.normal(size=levels))
    clicks_B: np.ndarray = weights[lifetimes.categories_BC[:, widest]]
    return clicks_B.astype(np.float32)
