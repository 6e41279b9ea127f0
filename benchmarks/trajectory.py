"""What sharpness-aware training costs: SAF, MESA, the lagged copy, and SAM.

    python benchmarks/trajectory.py [--width 256] [--repeat 20]

The whole step of `benchmarks/step.py`'s dense model (D256 L6 V4096, 16 x 256 tokens) in
one process, in turn; the fastest repetition counts. SAF keeps the 32 likeliest tokens
of three epochs of 64 rows; every row that it looks up is there.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
from step import LENGTH, ROWS, VOCABULARY, make_forms, random_batch
from timing import fastest_in_turn

from lostjax.data import Batch
from lostjax.train.build.initial import start_state
from lostjax.train.build.programs import lower_step
from lostjax.train.build.run import build_run
from lostjax.train.config.schema import (
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    TrainConfig,
    TrajectoryConfig,
)
from lostjax.train.devices.mesh import make_mesh
from lostjax.train.devices.sharding import place_batch

TABLE_ROWS, STEPS = 64, 1000

OBJECTIVES = {
    "plain": ObjectiveConfig(),
    "SAF": ObjectiveConfig(trajectory=TrajectoryConfig(name="saf")),
    "MESA": ObjectiveConfig(trajectory=TrajectoryConfig(name="mesa")),
    "lagged": ObjectiveConfig(trajectory=TrajectoryConfig(name="lagged")),
    "SAM": ObjectiveConfig(sam_radius=0.05),
}


def main() -> None:
    """Time every objective and print its throughput beside the plain one's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=256, help="d_model")
    parser.add_argument("--repeat", type=int, default=20, help="repetitions")
    options = parser.parse_args()
    model = make_forms(options.width)["dense, products kept"]
    steps = {name: make_step(model, what) for name, what in OBJECTIVES.items()}
    best = fastest_in_turn(steps, repeat=options.repeat)
    device = jax.devices()[0].device_kind
    print(f"{device}, width {options.width}, {ROWS} rows of {LENGTH} tokens")
    print(f"{'objective':<12}{'tokens/s':>10}{'of plain':>10}")
    for name, seconds in best.items():
        share = best["plain"] / seconds
        print(f"{name:<12}{ROWS * LENGTH / seconds:>10.0f}{share:>10.1%}")


def make_step(
    model_config: ModelConfig, objective: ObjectiveConfig
) -> Callable[[], Any]:
    """Compile the trainer's step for one device with an objective."""
    config = TrainConfig(
        steps=STEPS,
        batch_size=ROWS,
        model=model_config,
        data=DataConfig(seq_len=LENGTH),
        objective=objective,
    )
    rows: Any = SimpleNamespace(
        n_rows=TABLE_ROWS, count_epochs=lambda steps: [steps * ROWS / TABLE_ROWS]
    )
    mesh = make_mesh("data:1")
    run = build_run(config, mesh=mesh, vocab_size=VOCABULARY, rows=rows)
    state = start_state(run)
    step = lower_step(run, state).compile()
    batches = make_batches(mesh)

    def advance() -> object:
        nonlocal state
        state, metrics = step(state, next(batches))
        return jax.block_until_ready(metrics)

    return advance


def make_batches(mesh: jax.sharding.Mesh) -> Iterator[Batch]:
    """Yield batches that go through the table's rows, epoch after epoch."""
    plan = _Table(random_batch())
    for number in itertools.count():
        yield place_batch(plan, number, mesh=mesh)


class _Table(NamedTuple):
    """Batches of one text, numbered as if they were rows of a table."""

    whole: Batch
    batch_size: int = ROWS

    def batch_at(self, number: int, *, rows: slice) -> Batch:
        epoch, first = divmod(number * ROWS, TABLE_ROWS)
        batch = self.whole._replace(
            example_B=np.arange(first, first + ROWS, dtype=np.int32),
            epoch_B=np.full(ROWS, epoch, np.int32),
        )
        sliced: Batch = jax.tree.map(lambda leaf: leaf[rows], batch)
        return sliced


if __name__ == "__main__":
    main()
