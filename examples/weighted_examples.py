"""Weigh the examples of a batch by their losses: rare classes are learnt sooner."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import data, losses, metrics, nn
from lostjax.typing import PyTree

model, tx = nn.MLP((64, 10)), optax.adam(3e-3)


def load_rare() -> tuple[data.Samples, data.Samples]:
    """Load digits of which 7, 8 and 9 are rare; the held-out ones are not."""
    train, heldout = data.split_samples(data.load_digits(), train_rows=1000, seed=0)
    kept = (train.labels < 7) | (np.random.default_rng(0).random(1000) < 0.05)
    return jax.tree.map(lambda leaf: leaf[kept], train), heldout


def train(*, temperature: float, steps: int) -> float:
    """Train with `lin_upper`'s weights; returns the held-out share of errors."""
    samples, heldout = load_rare()
    x_BM = jnp.asarray(samples.inputs.reshape(-1, 64))
    labels_B = jnp.asarray(samples.labels)
    params = model.init(jax.random.key(0), x_BM)["params"]

    def classify(params: PyTree, x_BM: jax.Array) -> jax.Array:
        return jnp.asarray(model.apply({"params": params}, x_BM))

    def loss(params: PyTree) -> jax.Array:
        losses_B = losses.next_token_loss(classify(params, x_BM), labels_B)
        weights_B = losses.sample_weights(losses_B, temperature=temperature)
        return jnp.sum(weights_B * losses_B)

    @jax.jit
    def step(params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    logits_BV = classify(params, jnp.asarray(heldout.inputs.reshape(-1, 64)))
    return float(metrics.error_rate(logits_BV, jnp.asarray(heldout.labels)))


def main(steps: int = 100) -> tuple[float, float]:
    """Compare equal weights with weights by loss; returns both shares of errors."""
    equal = train(temperature=jnp.inf, steps=steps)
    weighted = train(temperature=0.3, steps=steps)
    print(f"held-out errors: {equal:.1%} with equal weights, {weighted:.1%} weighted")
    return equal, weighted


if __name__ == "__main__":
    main()
