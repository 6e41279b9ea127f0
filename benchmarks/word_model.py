"""Time of a training step of the word model, as ratios to the factored Z-loss.

    python benchmarks/word_model.py [--steps 20] [--repeat 30]

The model is that of `lostjax.repro.papers.spherical` at its small scale: 31,423 words,
embeddings and a hidden layer that all methods share, and an output layer that is dense,
under log-softmax by autodiff, or factored, under the Z-loss, with its share of one
`stabilise` in 500 steps. Each form runs a stretch of steps as the experiment does, in
one process, in turn; the fastest repetition counts.
"""

import argparse
import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from timing import fastest_in_turn

from lostjax.repro.experiment import Scale
from lostjax.repro.papers.spherical import SGD, Z, build_methods
from lostjax.repro.problems.word_model import (
    STABILISE_EVERY,
    STRETCH,
    Settings,
    Training,
    build_programs,
    shared_part,
)


def make_stretch(config: Training, n_steps: int) -> Callable[[], object]:
    """Make a function that runs a stretch of steps from where the last one ended."""
    programs = build_programs(shared_part(config))
    settings = Settings(jnp.float32(1e-3), jnp.int32(0), jnp.bool_(False))
    held = [programs.start(jax.random.key(0))]

    def run() -> object:
        for first in range(0, n_steps, STRETCH):
            held[0] = programs.run(
                held[0], jax.random.key(1), jnp.int32(first), settings
            )
        return jax.block_until_ready(held[0])

    return run


def make_stabilise(config: Training) -> Callable[[], object]:
    """Make a function that stabilises the factored layer."""
    programs = build_programs(shared_part(config))
    state = programs.start(jax.random.key(0))
    return lambda: jax.block_until_ready(programs.stabilise(state))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=30)
    flags = parser.parse_args()
    methods = build_methods(Scale(Training()))
    configs = {
        SGD: methods[SGD],
        "softmax, Adam": dataclasses.replace(methods[SGD], adam=True),
        Z[0]: methods[Z[0]],
    }
    runs = {name: make_stretch(config, flags.steps) for name, config in configs.items()}
    runs["stabilise"] = make_stabilise(configs[Z[0]])
    seconds = fastest_in_turn(runs, repeat=flags.repeat)
    seconds[Z[0]] += seconds.pop("stabilise") * flags.steps / STABILISE_EVERY
    print("| output layer | ms a step | times the factored Z-loss |")
    print("| --- | ---: | ---: |")
    for name, found in seconds.items():
        each = 1000 * found / flags.steps
        print(f"| {name} | {each:.2f} | {found / seconds[Z[0]]:.2f} |")


if __name__ == "__main__":
    main()
