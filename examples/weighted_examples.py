"""Weigh the examples of a batch by their losses, on labels of which some are wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import data, losses, metrics, nn
from lostjax.typing import PyTree

model, tx = nn.MLP((64, 10)), optax.adam(3e-3)


def train(shape: losses.Shape, *, temperature: float, steps: int) -> float:
    """Train with weights of one shape; returns the share of errors on clean labels."""
    train, heldout = data.split_samples(data.load_digits(), train_rows=512, seed=0)
    random = np.random.default_rng(0)
    wrong_B = random.random(512) < 0.3
    labels_B = jnp.where(wrong_B, random.integers(0, 10, 512), train.labels)
    x_BM = jnp.asarray(train.inputs.reshape(-1, 64))
    params = model.init(jax.random.key(0), x_BM)["params"]

    def classify(params: PyTree, x_BM: jax.Array) -> jax.Array:
        return jnp.asarray(model.apply({"params": params}, x_BM))

    def loss(params: PyTree) -> jax.Array:
        values_B = losses.next_token_loss(classify(params, x_BM), labels_B)
        weights_B = losses.sample_weights(
            values_B, shape=shape, temperature=temperature
        )
        return jnp.sum(weights_B * values_B)

    @jax.jit
    def step(params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    logits_BV = classify(params, heldout.inputs.reshape(-1, 64))
    return float(metrics.error_rate(logits_BV, jnp.asarray(heldout.labels)))


def main(steps: int = 300) -> tuple[float, float]:
    """Compare equal weights with `quadratic`, which distrusts the largest losses."""
    equal = train(losses.quadratic, temperature=jnp.inf, steps=steps)
    weighted = train(losses.quadratic, temperature=0.3, steps=steps)
    print(f"held-out errors: {equal:.1%} with equal weights, {weighted:.1%} weighted")
    return equal, weighted


if __name__ == "__main__":
    main()
