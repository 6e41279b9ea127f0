"""Many steps as one program, and many runs as one program.

    state_(s+1), metrics_s = step(state_s, batch_at(s))        s = 0, ..., n_steps - 1

`fit` is a `jax.lax.scan` of a pure step; batches are a pure function of the step's
number, so that nothing is stored but what they are made of. Metrics are kept every
`log_every` steps, which makes runs of 10^5 steps small.

`map_runs` maps a whole run over seeds and learning rates in one program, which is
compiled once: seeds train side by side (`jax.vmap`), rates one after another
(`jax.lax.map`). A seed is any tree (a key, a split of the data, ...).

    def run(seed, rate):
        tx = optax.sgd(rate)
        ...
        return fit(step, state, batch_at=batch_at, n_steps=1000).state
    states = map_runs(run)(seeds, rates)             leaves (seeds, rates, ...)

A run inside the map is not bit for bit the one outside it: XLA sums a product of many
matrices in another order than that of one.

Cost: `fit` holds one state and the metrics of one stretch of `log_every` steps;
`map_runs` holds the states of all seeds, for the rates that train at once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.typing import PyTree

Step = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]
"""From a state and a batch to the next state and metrics, any trees of arrays; pure.
The next state has the state's structure, shapes and types."""

BatchAt = Callable[[jax.Array], PyTree]
"""From a step's number, int32 from 0, to its batch; pure. A key for a step's noise
belongs to its batch: `jax.random.fold_in(key, number)`."""

Measure = Callable[[PyTree], PyTree]
"""From a state to what is measured of it now and then; pure."""


class Fitted(NamedTuple):
    """What training came to, and what was seen on the way; K = n_steps / log_every."""

    state: PyTree
    """The last state."""
    metrics: PyTree
    """Metrics of steps k, 2 k, ..., n_steps, with k = log_every; leaves (K, ...)."""
    measured: PyTree
    """What `measure` returned after these steps, leaves (K, ...); or None."""


def fit(
    step: Step,
    state: PyTree,
    *,
    batch_at: BatchAt,
    n_steps: int,
    log_every: int = 1,
    measure: Measure | None = None,
) -> Fitted:
    """Run a step many times; under `jax.jit` as one loop.

    Args:
      step: from state and batch to the next state and metrics.
      state: to start from, any tree of arrays.
      batch_at: from the step's number to its batch.
      n_steps: how many steps, at least 1.
      log_every: k, steps from one kept metric to the next; divides n_steps.
      measure: called on the state after every k steps, for what is too slow for every
        step, such as a held-out loss; None for nothing.

    Returns:
      The last state, and every k-th step's metrics and measures.

    Raises:
      ValueError: n_steps or log_every lies outside its range, or the step returns no
        pair or a state unlike the one it was given.
    """
    _require_numbers(n_steps, log_every)

    def advance(state: PyTree, number: jax.Array) -> tuple[PyTree, PyTree]:
        return _checked(step(state, batch_at(number)), state)

    def stretch(state: PyTree, first: jax.Array) -> tuple[PyTree, PyTree]:
        """Run k steps; keep the last one's metrics."""
        numbers = first + jnp.arange(log_every, dtype=jnp.int32)
        state, metrics = jax.lax.scan(advance, state, numbers)
        last = jax.tree.map(lambda leaf: leaf[-1], metrics)
        return state, (last, None if measure is None else measure(state))

    starts = jnp.arange(0, n_steps, log_every, dtype=jnp.int32)
    state, (metrics, measured) = jax.lax.scan(stretch, state, starts)
    return Fitted(state, metrics, measured)


def map_runs(
    run: Callable[[PyTree, PyTree], PyTree], *, rates_at_once: int = 1
) -> Callable[[PyTree, PyTree], PyTree]:
    """Turn one run into every seed at every learning rate, in one compiled program.

    Keep the returned function and call it again for other rates: it compiles once for
    each number of seeds and of rates.

    Args:
      run: from what makes a seed (a tree) and a learning rate, or any tree of settings
        that may be traced, to any tree; pure.
      rates_at_once: rates that train side by side, each with all seeds; the others
        wait. 1 is fastest on a CPU, whose caches more states overflow.

    Returns:
      A function from seeds, leaves (S, ...), and rates, (R,) or a tree of settings with
      leaves (R, ...), to the runs' trees with leaves (S, R, ...). It raises ValueError
      if either is empty or its leaves differ in their first axis.

    Raises:
      ValueError: rates_at_once is below 1.
    """
    if rates_at_once < 1:
        raise ValueError(f"rates_at_once={rates_at_once}: must be at least 1")

    @jax.jit
    def mapped(seeds: PyTree, rates: PyTree) -> PyTree:
        def run_seeds(rate: PyTree) -> PyTree:
            return jax.vmap(run, in_axes=(0, None))(seeds, rate)

        # A batch of one would add an axis of size 1 to every array.
        size = None if rates_at_once == 1 else rates_at_once
        runs = jax.lax.map(run_seeds, rates, batch_size=size)
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), runs)

    def run_all(seeds: PyTree, rates: PyTree) -> PyTree:
        _require_first_axis("seeds", seeds)
        _require_first_axis("rates", rates)
        return mapped(seeds, jax.tree.map(jnp.asarray, rates))

    return run_all


def _checked(made: Any, state: PyTree) -> tuple[PyTree, PyTree]:
    """Check what a step returned while it is traced, where a scan's message is long."""
    if not isinstance(made, tuple) or len(made) != 2:
        raise ValueError("step: must return a pair (state, metrics)")
    structures: list[Any] = [jax.tree.structure(each) for each in (state, made[0])]
    if structures[0] != structures[1]:
        raise ValueError(
            f"step: returns a state of {structures[1]}, was {structures[0]}"
        )
    leaves = jax.tree_util.tree_leaves_with_path(state)
    for (path, old), new in zip(leaves, jax.tree.leaves(made[0]), strict=True):
        if _type(old) != _type(new):
            name = jax.tree_util.keystr(path, simple=True, separator="/") or "the state"
            raise ValueError(f"step: returns {name} as {_type(new)}, was {_type(old)}")
    return made[0], made[1]


def _type(leaf: Any) -> str:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return f"{dtype}{list(np.shape(leaf))}"


def _require_first_axis(name: str, tree: PyTree) -> None:
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        raise ValueError(
            f"{name}: first axes {sorted(sizes)}, must be one and the same, 1 or more"
        )


def _require_numbers(n_steps: int, log_every: int) -> None:
    if n_steps < 1:
        raise ValueError(f"n_steps={n_steps}: must be at least 1")
    if log_every < 1 or n_steps % log_every:
        raise ValueError(f"log_every={log_every}: must divide n_steps={n_steps}")
