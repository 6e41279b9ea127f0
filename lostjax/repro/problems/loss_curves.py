"""Loss curves of public models, as targets: the largest of a family from the smaller.

Every target is the largest model of a family, which is the runs that share a corpus
and the number of its repetitions; for OPT also the largest but one and but two, from
the models below them. `curves/SOURCES.md` has the origin of the files.
"""

import csv
import gzip
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np

from lostjax.analysis.scaling import (
    LossLaw,
    LossPoints,
    fit_loss_law,
    log_huber,
    make_points,
)

CORPORA = ("datablations-c4", "datablations-oscar")
EPOCHS = (1, 2, 3, 4, 5, 7, 14, 44)
OPT_TARGETS = 3


class Target(NamedTuple):
    """A family up to the model whose loss is to be forecast."""

    name: str
    points: LossPoints
    """Of the target, the largest size, and of all smaller models."""
    unique: np.ndarray
    """Different tokens of each point's run; its own tokens if none are repeated."""
    relatives: LossPoints
    """Smaller models on the same corpus with any number of repetitions."""
    relatives_unique: np.ndarray
    """Different tokens of theirs."""


@cache
def list_targets() -> tuple[Target, ...]:
    """List the targets: three of OPT, and eight of each of two corpora."""
    return (*_find_opt(), *(t for c in CORPORA for t in _find_repeated(c)))


@cache
def fit_source() -> LossLaw:
    """Fit the law of another family: 245 points read off Chinchilla's figure."""
    rows = read_table("chinchilla_extracted.csv.gz")
    sizes = np.array([float(row["Model Size"]) for row in rows])
    flops = np.array([float(row["Training FLOP"]) for row in rows])
    points = make_points(
        n_params=sizes,
        tokens=flops / (6 * sizes),
        losses=[float(row["loss"]) for row in rows],
        runs=range(len(rows)),
    )
    # Some points were read wrong: squares would follow them.
    return fit_loss_law(points, objective=log_huber()).law


@cache
def read_table(name: str) -> tuple[dict[str, str], ...]:
    """Read a compressed table of the folder."""
    path = files("lostjax.repro.problems").joinpath("curves", name)
    with path.open("rb") as raw, gzip.open(raw, "rt", encoding="utf-8") as text:
        return tuple(csv.DictReader(text))


def read_family(family: str, *, epochs: int | None = None) -> LossPoints:
    """Read the points of a family, of all numbers of repetitions or of one."""
    rows = [
        row
        for row in read_table("training_curves.csv.gz")
        if row["family"] == family and epochs in (None, int(row["epochs"]))
    ]
    return make_points(
        n_params=[float(row["n_params"]) for row in rows],
        tokens=[float(row["tokens"]) for row in rows],
        losses=[float(row["loss"]) for row in rows],
        runs=[row["model"] for row in rows],
    )


def _find_opt() -> Iterator[Target]:
    points = read_family("OPT")
    for size in points.sizes[-OPT_TARGETS:]:
        family = points.take(points.n_params <= size)
        smaller = family.take(family.n_params < size)
        yield Target(
            f"OPT {size / 1e9:g}B", family, family.tokens, smaller, smaller.tokens
        )


def _find_repeated(corpus: str) -> Iterator[Target]:
    by_epochs = {epochs: read_family(corpus, epochs=epochs) for epochs in EPOCHS}
    unique = {epochs: _longest(points) / epochs for epochs, points in by_epochs.items()}
    largest = by_epochs[1].sizes[-1]
    smaller = {n: p.take(p.n_params < largest) for n, p in by_epochs.items()}
    first = np.cumsum([0, *(p.runs.max() + 1 for p in smaller.values())])
    numbered = [
        points._replace(runs=points.runs + number)
        for points, number in zip(smaller.values(), first, strict=False)
    ]
    relatives = LossPoints(
        n_params=np.concatenate([points.n_params for points in numbered]),
        tokens=np.concatenate([points.tokens for points in numbered]),
        losses=np.concatenate([points.losses for points in numbered]),
        runs=np.concatenate([points.runs for points in numbered]),
    )
    relatives_unique = np.concatenate(
        [unique[n][p.n_params < largest] for n, p in by_epochs.items()]
    )
    for epochs, points in by_epochs.items():
        name = f"{corpus.removeprefix('datablations-')}, {epochs} epochs"
        yield Target(name, points, unique[epochs], relatives, relatives_unique)


def _longest(points: LossPoints) -> np.ndarray:
    """Find the last number of tokens of each point's run."""
    return np.array([points.tokens[points.runs == run].max() for run in points.runs])
