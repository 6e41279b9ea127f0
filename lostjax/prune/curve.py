"""The curve of a run's held-out bits per byte over the share of removed weights.

Each mask is scored on the same passages, which are rows of packed text. Differences
between masks are therefore known better than the scores themselves, and the interval of
the plateau's end is from bootstrap samples of passages, all masks on the same ones.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from lostjax.analysis import (
    EssentialSparsity,
    apply_mask,
    essential_sparsity,
    magnitude_mask,
    nm_mask,
    random_mask,
    sparsity_of,
)
from lostjax.data import EvalPlan
from lostjax.disk.partial import PartialResults
from lostjax.optim.splitting.matrices import match_matrices
from lostjax.steps.score import PassageStep
from lostjax.train.build.optimizer import find_layer_matrices
from lostjax.trees import path_text
from lostjax.typing import PyTree, Variables

WHOLE, MAGNITUDE, RANDOM = "whole", "magnitude", "random"
SAMPLES = 1000
"""Bootstrap samples of the passages."""

find_matrices = partial(find_layer_matrices, full_state=None)
"""The matrices that are pruned: those of `optim.find_matrices` in stacked layers."""


class Setting(NamedTuple):
    """A way to remove weights."""

    kind: str
    """`whole`, `magnitude`, `random`, or a pattern such as `2:4`."""
    sparsity: float
    """Share of the weights removed; of a pattern, of the matrices that it fits."""
    make: Callable[[PyTree], PyTree]
    """Makes the mask from the parameters."""


class Scored(NamedTuple):
    """A mask's score on each passage."""

    setting: Setting
    sparsity: float
    """Share of the weights of all matrices that the mask removes."""
    nats_R: np.ndarray
    """Summed cross entropy of each of R passages."""


class Passages(NamedTuple):
    """The passages that masks are scored on."""

    batches: Sequence[int]
    """Numbers of the batches of the plan."""
    plan: EvalPlan

    @property
    def n_tokens(self) -> int:
        """Tokens of full passages, at most."""
        return len(self.batches) * self.plan.batch_size * self.plan.sources[0].seq_len

    @property
    def bits_per_nat(self) -> float:
        """Factor from nats per token to bits per byte, for the text as a whole."""
        plan = self.plan
        return plan.n_predicted / (plan.n_bytes * math.log(2))


def choose_passages(plan: EvalPlan, *, tokens: int) -> Passages:
    """Choose batches that are spread evenly over a text.

    Args:
      plan: all rows of the text.
      tokens: tokens to choose, rounded up to whole batches; at least 1.
    """
    each = plan.batch_size * plan.sources[0].seq_len
    count = min(plan.n_batches, -(-tokens // each))
    numbers = np.unique(np.linspace(0, plan.n_batches - 1, count).round().astype(int))
    return Passages(numbers.tolist(), plan)


def list_settings(
    sparsities: Sequence[float], *, pattern: tuple[int, int] | None, seed: int
) -> list[Setting]:
    """List what is tested: each sparsity by size and at random, and a pattern."""
    settings = [
        Setting(WHOLE, 0.0, lambda params: jax.tree.map(lambda _: True, params))
    ]
    for sparsity in sparsities:
        settings.append(Setting(MAGNITUDE, sparsity, partial(_largest, sparsity)))
    if pattern is not None:
        keep, of = pattern
        make = partial(_pattern, keep, of)
        settings.append(Setting(f"{keep}:{of}", 1 - keep / of, make))
    for sparsity in sparsities:
        settings.append(Setting(RANDOM, sparsity, partial(_random, sparsity, seed)))
    return settings


def score_settings(
    settings: Sequence[Setting],
    variables: Variables,
    *,
    step: PassageStep,
    passages: Passages,
    partial_results: PartialResults,
) -> Iterator[Scored]:
    """Score each mask on the passages, one at a time, if it was not done before."""
    params = variables["params"]
    total = sum(leaf.size for _, leaf in list_matrices(params))
    for setting in settings:
        name = f"{setting.kind} {setting.sparsity!r}"
        if found := partial_results.find(name):
            yield Scored(setting, found["sparsity"], np.array(found["nats"]))
            continue
        mask = setting.make(params)
        pruned = {**variables, "params": apply_mask(params, mask)}
        nats_R, _ = score_passages(step, pruned, passages)
        removed = sparsity_of(mask) * _count_masked(mask)
        # What is not finite is no JSON; it is computed again.
        if np.isfinite(nats_R).all():
            values = {"sparsity": removed / total, "nats": nats_R.tolist()}
            partial_results.keep(name, values)
        yield Scored(setting, removed / total, nats_R)


def score_passages(
    step: PassageStep, variables: Variables, passages: Passages
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nats and the tokens of each passage, without empty ones."""
    parts = []
    for number in passages.batches:
        batch = passages.plan.batch_at(number)
        # One batch in flight: with many, CPU devices that share threads deadlock.
        parts.append(jax.device_get(step(variables, batch)))
    nats_R, tokens_R = (np.concatenate(x).astype(np.float64) for x in zip(*parts))  # noqa: B905
    return nats_R[tokens_R > 0], tokens_R[tokens_R > 0]


def bits_per_byte(
    nats_R: np.ndarray, tokens_R: np.ndarray, passages: Passages
) -> float:
    """Compute the bits per byte of a text from those of its passages."""
    return float(nats_R.sum() / tokens_R.sum() * passages.bits_per_nat)


def find_plateau(
    scored: Sequence[Scored], tokens_R: np.ndarray, *, tolerance: float
) -> EssentialSparsity:
    """Find the essential sparsity of masks by magnitude, with a bootstrap interval.

    Args:
      scored: the whole model and masks by magnitude, in the order of their sparsity.
      tokens_R: tokens of each passage.
      tolerance: share by which the bits per byte may rise.
    """
    nats_SR = np.stack([each.nats_R for each in scored])
    places = [each.setting.sparsity for each in scored]
    found = essential_sparsity(
        places, -nats_SR.sum(axis=1), tolerance=tolerance, relative=True
    )
    rng = np.random.default_rng(0)
    n = len(tokens_R)
    counts_KR = rng.multinomial(n, np.full(n, 1 / n), size=SAMPLES)
    losses_KS = (counts_KR @ nats_SR.T) / (counts_KR @ tokens_R)[:, None]
    sampled = essential_sparsity(places, -losses_KS, tolerance=tolerance, relative=True)
    return found._replace(low=sampled.low, high=sampled.high)


def count_by_matrix(mask: PyTree) -> list[tuple[str, int, float]]:
    """List the path, the weights and the removed share of each masked matrix."""
    leaves = jax.tree.leaves_with_path(mask)
    return [
        (path_text(path), int(np.size(kept)), 1 - float(np.mean(kept)))
        for path, kept in leaves
        if np.ndim(kept)
    ]


def list_matrices(params: PyTree) -> list[tuple[str, jax.Array]]:
    """List the paths and the arrays of the matrices that are pruned."""
    labels = match_matrices(params, find_matrices)
    leaves = jax.tree.leaves_with_path(params)
    return [
        (path_text(path), leaf)
        for (path, leaf), label in zip(leaves, labels, strict=True)
        if label is not None
    ]


def list_unfit(params: PyTree, *, of: int) -> list[str]:
    """List the matrices whose inputs cannot be divided into groups of M."""
    return [path for path, leaf in list_matrices(params) if leaf.shape[-2] % of]


def _largest(sparsity: float, params: PyTree) -> PyTree:
    return magnitude_mask(params, sparsity, matrices=find_matrices)


def _random(sparsity: float, seed: int, params: PyTree) -> PyTree:
    key = jax.random.key(seed)
    return random_mask(params, sparsity, key=key, matrices=find_matrices)


def _pattern(keep: int, of: int, params: PyTree) -> PyTree:
    unfit = set(list_unfit(params, of=of))
    fitting = {path for path, _ in list_matrices(params)} - unfit
    chosen = jax.tree.map_with_path(lambda path, _: path_text(path) in fitting, params)
    return nm_mask(params, keep=keep, of=of, matrices=chosen)


def _count_masked(mask: PyTree) -> int:
    return sum(np.size(kept) for kept in jax.tree.leaves(mask) if np.ndim(kept))
