"""What a run's care costs: `lostjax.train`'s loop against its bare step, in turn.

    python benchmarks/whole_run.py [--segments 8] [--steps 8] [--every 8] [--rows 16]

The run is a real one: data, guard, signals, metrics, TensorBoard, and, where `--every`
is as `--steps`, a checkpoint with its hashes in the middle of every segment. After each
segment the same step without the guard runs as often on a batch that is there already,
and nothing else. The model is
that of `benchmarks/step.py` (D256 L6 V4096, rows of 256 tokens), LOST with its products
kept. Each segment is compared with the bare one that follows it.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from guarded_step import unguarded
from step import LENGTH, make_forms

from lostjax.steps.state import TrainState
from lostjax.train import session
from lostjax.train.build.programs import Compiled, compile_steps, lower_step
from lostjax.train.build.run import Run
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import TrainConfig


class InTurn:
    """A run's step that lets the bare step run after every segment of steps."""

    def __init__(self, run: Run, state: TrainState, *, segment: int) -> None:
        self._compiled = compile_steps(run, state)
        with unguarded():
            self._bare = lower_step(run, state).compile()
        self._state = jax.tree.map(jnp.copy, state)
        self._segment, self._done, self._began = segment, 0, 0.0
        self.seconds: list[tuple[float, float]] = []

    def compiled(self) -> Compiled:
        """Give the run its programs."""
        return self._compiled._replace(train=self)

    def __call__(self, state: TrainState, batch: Any) -> Any:
        """Do one step of the run."""
        if self._done % self._segment == self._segment // 2:
            jax.block_until_ready(state)
            mine = time.perf_counter() - self._began
            bare = self._run_bare(batch)
            if self._done > self._segment:  # what came before warms up
                self.seconds.append((mine, bare))
            self._began = time.perf_counter()
        self._done += 1
        return self._compiled.train(state, batch)

    def _run_bare(self, batch: Any) -> float:
        began = time.perf_counter()
        for _ in range(self._segment):
            self._state, _ = self._bare(self._state, batch)
        jax.block_until_ready(self._state)
        return time.perf_counter() - began


def measure(config: TrainConfig, *, segment: int) -> list[tuple[float, float]]:
    """Train, and give the seconds of each segment and of the bare one after it."""
    turns: list[InTurn] = []

    def compile_both(run: Run, state: TrainState) -> Compiled:
        turns.append(InTurn(run, state, segment=segment))
        return turns[0].compiled()

    with mock.patch.object(session, "compile_steps", compile_both):
        session.train(config, command="", started=time.monotonic())
    return turns[0].seconds


def main() -> None:
    """Train and print the cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--segments", type=int, default=8, help="pairs to compare")
    parser.add_argument("--steps", type=int, default=8, help="steps of a segment")
    parser.add_argument("--every", type=int, default=8, help="steps of a checkpoint")
    parser.add_argument("--rows", type=int, default=16, help="rows in a batch")
    options = parser.parse_args()
    preset = get_preset("tiny")
    with tempfile.TemporaryDirectory() as directory:
        config = dataclasses.replace(
            preset,
            model=make_forms(256)["lost, products kept"],
            data=dataclasses.replace(preset.data, tokenizer="bpe:4096", seq_len=LENGTH),
            batch_size=options.rows,
            mesh="data:1",
            steps=options.steps * (options.segments + 2),
            checkpoint_every=options.every,
            eval_every=0,
            run_dir=f"{directory}/run",
        )
        pairs = measure(config, segment=options.steps)
    mine, bare = zip(*pairs, strict=True)
    ratios = [a / b for a, b in pairs]
    step = min(bare) / options.steps
    print(
        f"{jax.devices()[0].device_kind}, {options.rows} rows, bare step "
        f"{1000 * step:.0f} ms, a checkpoint every {config.checkpoint_every} steps:\n"
        f"the run takes {100 * (min(mine) / min(bare) - 1):+.2f} % more by the fastest "
        f"segments, {100 * (statistics.median(ratios) - 1):+.2f} % by the median of "
        f"pairs ({', '.join(f'{100 * (each - 1):+.1f}' for each in ratios)})"
    )


if __name__ == "__main__":
    main()
