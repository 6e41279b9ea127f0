"""Use a LOST layer and FRUGAL in a model of Flax NNX."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from lostjax import nn, optim


class Net(nnx.Module):
    """A LOST layer and a linear one."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        layer = nn.LowRankSparse(128, rank=16, delta=0.05)
        # lazy_init creates the parameters; without it the first call finds none.
        self.hidden = nnx.bridge.ToNNX(layer, rngs=rngs).lazy_init(jnp.ones((1, 64)))
        self.head = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x_BM: jax.Array) -> jax.Array:
        """Compute the logits of each row."""
        logits_BV: jax.Array = self.head(nnx.relu(self.hidden(x_BM)))
        return logits_BV


def main(steps: int = 30) -> tuple[float, float]:
    """Fit random labels; returns the first and the last loss."""
    x_BM = jax.random.normal(jax.random.key(0), (32, 64))
    labels_B = jnp.arange(32) % 10
    net = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(net, optim.frugal(3e-3, density=0.25), wrt=nnx.Param)

    def loss(net: Net) -> jax.Array:
        values_B = optax.losses.softmax_cross_entropy_with_integer_labels(
            net(x_BM), labels_B
        )
        return jnp.mean(values_B)

    @nnx.jit
    def step(net: Net, optimizer: "nnx.Optimizer[Net]") -> jax.Array:
        value, grads = nnx.value_and_grad(loss)(net)
        optimizer.update(net, grads)
        return jnp.asarray(value)

    curve = [float(step(net, optimizer)) for _ in range(steps)]
    print(f"loss {curve[0]:.2f} to {curve[-1]:.2f}")
    return curve[0], curve[-1]


if __name__ == "__main__":
    main()
