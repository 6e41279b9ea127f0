"""What sharpness-aware training costs: SAF, MESA, the lagged copy, and SAM.

    python benchmarks/trajectory.py [--width 256] [--repeat 20]

The whole step of `benchmarks/step.py`'s dense model (D256 L6 V4096, 16 x 256 tokens) in
one process, in turn; the fastest repetition counts. SAF keeps the 32 likeliest tokens
of three epochs of 64 rows; every row that it looks up is there.
"""

import argparse
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import optax
from step import LENGTH, ROWS, VOCABULARY, make_forms, random_batch
from timing import fastest_in_turn

from lostjax.data import Batch
from lostjax.train.build.model import build_model
from lostjax.train.build.optimizer import build_optimizer
from lostjax.train.build.programs import lower_step
from lostjax.train.build.state import init_state
from lostjax.train.build.trajectory import build_trajectory
from lostjax.train.config.schema import (
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
)
from lostjax.train.devices.mesh import make_mesh, place_batch

TABLE_ROWS, STEPS = 64, 1000

OBJECTIVES = {
    "plain": ObjectiveConfig(),
    "SAF": ObjectiveConfig(trajectory="saf"),
    "MESA": ObjectiveConfig(trajectory="mesa"),
    "lagged": ObjectiveConfig(trajectory="lagged"),
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
    rows = SimpleNamespace(
        n_rows=TABLE_ROWS, count_epochs=lambda steps: [steps * ROWS / TABLE_ROWS]
    )
    data: Any = SimpleNamespace(train=rows, vocab_size=VOCABULARY)
    trajectory = build_trajectory(config, data)
    mesh = make_mesh("data:1")
    model = build_model(model_config, vocab_size=VOCABULARY)
    tx, _ = build_optimizer(OptimConfig(), steps=STEPS)
    tx = optax.chain(tx, *trajectory.track)
    state = init_state(
        model,
        tx,
        mesh=mesh,
        key=jax.random.key(0),
        init_memory=trajectory.init_memory,
    )
    lowered = lower_step(
        config, state, mesh=mesh, model=model, tx=tx, trajectory=trajectory
    )
    step = lowered.compile()
    batches = make_batches(mesh)

    def run() -> object:
        nonlocal state
        state, metrics = step(state, next(batches))
        return jax.block_until_ready(metrics)

    return run


def make_batches(mesh: jax.sharding.Mesh) -> Iterator[Batch]:
    """Give batches that go through the table's rows, epoch after epoch."""
    whole = random_batch()
    number = 0
    while True:
        epoch, first = divmod(number * ROWS, TABLE_ROWS)
        batch = whole._replace(
            example_B=np.arange(first, first + ROWS, dtype=np.int32),
            epoch_B=np.full(ROWS, epoch, np.int32),
        )

        def take(rows: slice, batch: Batch = batch) -> Batch:
            return Batch(*(leaf[rows] for leaf in batch))

        yield place_batch(take, mesh=mesh, batch_size=ROWS)
        number += 1


if __name__ == "__main__":
    main()
