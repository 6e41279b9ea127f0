"""Add the divergence from a moving average's outputs (MESA) to a loss."""

import jax
import jax.numpy as jnp
import optax

from lostjax import data, losses, metrics, nn, optim
from lostjax.typing import PyTree

model = nn.MLP((64, 10))
# The average comes last in the chain, because it reads the updated parameters.
tx = optax.chain(optax.sgd(0.1, momentum=0.9), optim.track_past_params(0.98))


def main(steps: int = 200, *, weight: float = 0.8) -> float:
    """Train on scikit-learn's digits; returns the average's held-out error."""
    train, heldout = data.split_samples(data.load_digits(), train_rows=512, seed=0)
    x_BM = jnp.asarray(train.inputs.reshape(-1, 64))
    labels_B = jnp.asarray(train.labels)
    params = model.init(jax.random.key(0), x_BM)["params"]

    def classify(params: PyTree, x_BM: jax.Array) -> jax.Array:
        return jnp.asarray(model.apply({"params": params}, x_BM))

    def loss(params: PyTree, past_params: PyTree) -> jax.Array:
        logits_BV, past_BV = classify(params, x_BM), classify(past_params, x_BM)
        values_B = losses.next_token_loss(logits_BV, labels_B)
        near_B = losses.trajectory_loss(logits_BV, past_BV, temperature=5.0)
        return jnp.mean(values_B + weight * near_B)

    @jax.jit
    def step(params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        grads = jax.grad(loss)(params, optim.get_past_params(state))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    heldout_BM = jnp.asarray(heldout.inputs.reshape(-1, 64))
    logits_BV = classify(optim.get_past_params(state), heldout_BM)
    error = float(metrics.error_rate(logits_BV, jnp.asarray(heldout.labels)))
    print(f"held-out error of the average: {error:.1%}")
    return error


if __name__ == "__main__":
    main()
