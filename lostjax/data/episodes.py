"""Episodes of few-shot learning: some classes, a few examples of each, and queries.

    classes   `way` classes, drawn without replacement
    support   `shot` examples of each
    queries   `query` others of each

Vinyals et al., "Matching Networks for One Shot Learning", 2016, arXiv:1606.04080. An
episode is a pure function of its key, as row numbers: it can be drawn under `jax.jit`,
and many at once by `jax.vmap` over keys. The label of an example within its episode is
its row of the arrays, 0 to way - 1; `classes` has the label of the data.

Cost: a table of N x (examples of the largest class) int32 on the host, and a sort of
`way` of its rows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.errors import DataError
from lostjax.typing import Array, Int, Key


class Episode(NamedTuple):
    """Row numbers of an episode: one row of them for each class."""

    classes_N: Int[Array, "N"]
    """Labels of the classes in the data."""
    support_NS: Int[Array, "N S"]
    """Rows of the support examples, int32."""
    query_NQ: Int[Array, "N Q"]
    """Rows of the queries, int32; none of them is a support example."""


def draw_episode(
    labels_B: Int[Array, "B"] | Int[np.ndarray, "B"],
    *,
    way: int,
    shot: int,
    query: int,
    key: Key,
) -> Episode:
    """Draw classes, and examples of each, without replacement.

    Args:
      labels_B: label of each example of the data, any integers (B,); not traced. Use
        disjoint sets of classes for training and testing.
      way: number of classes N of the episode, at least 1.
      shot: number of support examples S of each class, at least 1.
      query: number of queries Q of each class, at least 1.
      key: decides the episode; may be traced.

    Returns:
      Rows of the data, drawn uniformly.

    Raises:
      ValueError: `way`, `shot` or `query` is below 1.
      DataError: there are fewer than `way` classes, or a class has fewer than `shot` +
        `query` examples; leave such classes out of the labels.

    Example:
        keys = jax.random.split(jax.random.key(0), n_episodes)
        episodes = jax.vmap(
            lambda key: draw_episode(labels_B, way=5, shot=1, query=15, key=key)
        )(keys)
    """
    for name, value in (("way", way), ("shot", shot), ("query", query)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    classes, table, counts = _table_of_rows(np.asarray(labels_B))
    if len(classes) < way:
        raise DataError(f"way={way}: the labels hold {len(classes)} class(es)")
    if (counts < shot + query).any():
        first = np.argmax(counts < shot + query)
        raise DataError(
            f"class {classes[first]} has {counts[first]} example(s), an episode needs "
            f"shot={shot} and query={query} of each"
        )
    class_key, row_key = jax.random.split(key)
    chosen_N = jax.random.permutation(class_key, len(classes))[:way]
    draws = jax.random.uniform(row_key, (way, table.shape[1]))
    # Places past the end of a class sort last: uniform numbers are below 1.
    there = jnp.arange(table.shape[1]) < jnp.asarray(counts)[chosen_N][:, None]
    order = jnp.argsort(jnp.where(there, draws, 2.0), axis=-1)[:, : shot + query]
    rows = jnp.take_along_axis(jnp.asarray(table)[chosen_N], order, axis=-1)
    return Episode(jnp.asarray(classes)[chosen_N], rows[:, :shot], rows[:, shot:])


def _table_of_rows(labels_B: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the rows of each class, padded with 0 to the largest; with the counts."""
    classes, place_B, counts = np.unique(
        labels_B, return_inverse=True, return_counts=True
    )
    table = np.zeros((len(classes), counts.max(initial=0)), np.int32)
    order = np.argsort(place_B, kind="stable")
    start = np.cumsum(counts) - counts
    table[place_B[order], np.arange(len(order)) - start[place_B[order]]] = order
    return classes, table, counts
