"""Use the LOST layer in a Flax model of your own."""

import flax.linen
import jax
import jax.numpy as jnp

from lostjax import nn


class Net(flax.linen.Module):
    """A network with one LOST layer of 128 units and an output for each class."""

    n_classes: int = 10

    @flax.linen.compact
    def __call__(self, x_BM: jax.Array) -> jax.Array:
        """Compute the logits of each row."""
        x_BN = nn.LowRankSparse(128, rank=16, delta=0.05, name="lost")(x_BM)
        logits_BV: jax.Array = flax.linen.Dense(self.n_classes)(flax.linen.relu(x_BN))
        return logits_BV


def main() -> tuple[int, int]:
    """Print the layer's arrays; returns its number of parameters, and a dense one's."""
    x_BM = jnp.ones((2, 64))
    net = Net()
    variables = net.init(jax.random.key(0), x_BM)
    print("trained:", jax.tree.map(jnp.shape, variables["params"]["lost"]))
    print("kept input channels:", variables["channels"]["lost"]["kept"])
    print("logits:", jax.tree.map(jnp.shape, net.apply(variables, x_BM)))

    layer = nn.LowRankSparse(128, rank=16, delta=0.05)
    counts = layer.parameter_count(64), nn.Dense(128).parameter_count(64)
    print("parameters: {:,}, of a dense layer: {:,}".format(*counts))
    return counts


if __name__ == "__main__":
    main()
