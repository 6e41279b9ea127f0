"""The command line of the trainer, where the losses of some batches are spikes.

    python spiking.py 9,10,16 FLAGS...

The batches are counted from 0. What a spike is put into is the loss that a step
reports, which the guard looks at; the gradient is what it was.
"""

import sys

import jax.numpy as jnp


def make_spiking(make_gradient, batches):
    """Put the spikes into what `make_gradient` makes."""

    def make(*arguments, **options):
        inner = make_gradient(*arguments, **options)

        def gradient(state, batch):
            here = inner(state, batch)
            is_bad = jnp.isin(state.step + state.offset, jnp.asarray(batches))
            loss = here.means["loss"] + jnp.where(is_bad, 1000.0, 0.0)
            return here._replace(means=here.means | {"loss": loss})

        return gradient

    return make


if __name__ == "__main__":
    from lostjax.train import programs
    from lostjax.train.__main__ import main

    batches = [int(number) for number in sys.argv[1].split(",")]
    programs.make_gradient = make_spiking(programs.make_gradient, batches)
    sys.exit(main(sys.argv[2:]))
