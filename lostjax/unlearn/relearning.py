"""How fast the forgotten comes back when a tenth of it is taught again.

What a model has lost takes as long to learn as for a model that never knew it; what is
only hidden returns after a few steps, also the nine tenths that are not taught.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from lostjax.losses import sequence_means
from lostjax.nn import Transformer
from lostjax.typing import Batch, PyTree, Variables
from lostjax.unlearn.examples import Encoded, rows_at
from lostjax.unlearn.forgetting import make_optimizer
from lostjax.unlearn.measure import Meter, place_rows, token_nats

_SHARE = 10


class Relearning(NamedTuple):
    """A curve."""

    steps: list[int]
    probability: list[float]
    """Of the answers that are not taught; of all if there is only one."""

    def steps_to(self, level: float) -> int | None:
        """Return the first measured step at which a probability is reached."""
        pairs = zip(self.steps, self.probability, strict=True)
        return next((step for step, value in pairs if value >= level), None)


def split_tenth(rows: Encoded, *, seed: int) -> tuple[Encoded, Encoded]:
    """Split examples into a tenth, at least one, and the others, or all if none is."""
    order = np.random.default_rng(seed).permutation(len(rows))
    n = -(-len(rows) // _SHARE)
    return rows.take(order[:n]), rows.take(order[n:] if n < len(rows) else order)


def relearn(
    model: Transformer,
    variables: Variables,
    *,
    taught: Encoded,
    others: Encoded,
    meter: Meter,
    mesh: Mesh,
    learning_rate: float,
    n_steps: int,
    seed: int,
) -> Relearning:
    """Teach some answers again, and measure the others after 0, 1, 2, 4, ... steps."""
    tx = make_optimizer(learning_rate, 0.0)
    channels = variables["channels"]

    def loss(params: PyTree, batch: Batch) -> jax.Array:
        bound = {"params": params, "channels": channels}
        nats_BT = token_nats(model, bound, batch)
        return jnp.mean(sequence_means(nats_BT, batch.weights_BT))

    @jax.jit
    def step(params: PyTree, state: PyTree, batch: Batch) -> tuple[PyTree, PyTree]:
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    params, state = variables["params"], tx.init(variables["params"])
    curve = Relearning([], [])
    shown = {0, n_steps} | {2**i for i in range(20)}
    for number in range(n_steps + 1):
        if number in shown:
            read = meter.read({"params": params, "channels": channels}, others)
            curve.steps.append(number)
            curve.probability.append(float(np.mean(read.probability_E)))
        if number < n_steps:
            at = rows_at(
                number, n_rows=len(taught), batch_size=meter.batch_size, seed=seed
            )
            batch = place_rows(taught.take(at).as_batch(), mesh)
            params, state = step(params, state, batch)
            jax.block_until_ready(params)
    return curve
