"""Train a LOST transformer with FRUGAL in a loop of your own."""

import functools

import jax
import jax.numpy as jnp
import optax

from lostjax import losses, nn, optim
from lostjax.typing import PyTree

linear = functools.partial(nn.LowRankSparse, rank=16, delta=0.1)
model = nn.Transformer(
    vocab_size=256, d_model=64, n_layers=2, n_heads=2, d_hidden=128, linear=linear
)
tx = optax.chain(
    optax.clip_by_global_norm(1.0),
    optim.frugal(3e-3, density=0.25, update_gap=20),
)
TEXT = b"We the People of the United States, in Order to form a more perfect Union, "


def main(steps: int = 60) -> tuple[float, float]:
    """Learn a sentence by heart; returns the first and the last loss."""
    tokens_BT = jnp.asarray([list(TEXT)] * 4)
    variables = model.init(jax.random.key(0), tokens_BT[:, :-1])
    # Kept channels are indices: they never change, and nothing differentiates them.
    params, channels = variables["params"], variables["channels"]

    def loss(params: PyTree) -> jax.Array:
        logits_BTV = model.apply(
            {"params": params, "channels": channels}, tokens_BT[:, :-1]
        )
        assert isinstance(logits_BTV, jax.Array)
        return losses.next_token_loss(logits_BTV, tokens_BT[:, 1:]).mean()

    @jax.jit
    def step(params: PyTree, state: PyTree) -> tuple[PyTree, PyTree, jax.Array]:
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state = tx.init(params)
    print(f"{optim.state_bytes(state):,} bytes of optimiser state")
    curve = []
    for _ in range(steps):
        params, state, value = step(params, state)
        curve.append(float(value))
    print(f"loss {curve[0]:.2f} to {curve[-1]:.2f}")
    return curve[0], curve[-1]


if __name__ == "__main__":
    main()
