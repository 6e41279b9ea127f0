"""Which rows each step sees: a new order every epoch, each row once.

    rows of step s = order_e[i B : (i + 1) B],   s = e n + i,  n = rows // B

The order of epoch e depends on the key and e alone, so that a longer run begins as a
shorter one. What is left over at an epoch's end (fewer than B rows) is left out.
"""

import jax
import jax.numpy as jnp

from lostjax.typing import Array, Int, Key


def epoch_rows(
    key: Key, *, n_rows: int, batch_size: int, n_epochs: int
) -> Int[Array, "S B"]:
    """Draw the rows of every step of some epochs.

    Args:
      key: decides the orders; may be traced, as for one run among many seeds.
      n_rows: rows of the data, at least 1.
      batch_size: B, from 1 to n_rows.
      n_epochs: at least 1.

    Returns:
      Row numbers (S, B), int32, for S = n_epochs x (n_rows // B) steps; step s is of
      epoch s // (n_rows // B). They take 4 S B bytes.

    Raises:
      ValueError: an argument lies outside its range.
    """
    if n_rows < 1 or n_epochs < 1:
        name, value = ("n_rows", n_rows) if n_rows < 1 else ("n_epochs", n_epochs)
        raise ValueError(f"{name}={value}: must be at least 1")
    if not 1 <= batch_size <= n_rows:
        raise ValueError(f"batch_size={batch_size}: must lie in [1, n_rows={n_rows}]")
    n_steps = n_rows // batch_size

    def order(epoch: jax.Array) -> jax.Array:
        drawn = jax.random.permutation(jax.random.fold_in(key, epoch), n_rows)
        return drawn[: n_steps * batch_size].reshape(n_steps, batch_size)

    rows_ESB: jax.Array = jax.lax.map(order, jnp.arange(n_epochs))
    return rows_ESB.reshape(-1, batch_size)
