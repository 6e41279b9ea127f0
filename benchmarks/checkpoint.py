"""What the manifests of checkpoints cost: verifying beside restoring, saving beside it.

    python benchmarks/checkpoint.py [--width 448] [--repeat 7] [--json FILE]

The state is AdamW's of a dense model of 6 layers (width 448: 220 MB in all), on one
device. Every form runs in one process, in turn, and the fastest of the repetitions
counts. Files are in the page cache: from a slow disk restoring takes longer, and
verifying reads what restoring then finds in memory.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import jax
from timing import fastest_in_turn

from lostjax.disk.manifest import find_damage, write_manifest
from lostjax.steps.state import TrainState
from lostjax.train.build.model import build_model
from lostjax.train.build.optimizer import build_optimizer
from lostjax.train.build.state import abstract_state, init_state
from lostjax.train.config.schema import ModelConfig, OptimConfig
from lostjax.train.devices.mesh import make_mesh
from lostjax.train.keep.checkpoints import open_checkpoints
from lostjax.train.keep.step_directories import step_dir


def main() -> None:
    """Time restoring, verifying, saving and hashing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=448, help="d_model")
    parser.add_argument("--repeat", type=int, default=7, help="repetitions")
    parser.add_argument("--json", default="", help="also write the timings there")
    options = parser.parse_args()
    state, abstract = make_state(options.width)
    nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    directory = Path(tempfile.mkdtemp())
    try:
        best = measure(state, abstract, directory, repeat=options.repeat)
    finally:
        shutil.rmtree(directory)
    print(f"{jax.devices()[0].device_kind}, a state of {nbytes / 1e6:.0f} MB")
    for name, seconds in best.items():
        print(f"{name:<34}{1000 * seconds:>9.1f} ms{nbytes / seconds / 1e9:>8.2f} GB/s")
    share = best["verify"] / best["restore, verified"]
    print(f"verifying is {100 * share:.1f} % of a restore")
    if options.json:
        Path(options.json).write_text(json.dumps(best | {"bytes": nbytes}))


def make_state(width: int) -> tuple[TrainState, TrainState]:
    """Make the state of a dense model, and its shapes."""
    config = ModelConfig(
        d_model=width,
        n_layers=6,
        n_heads=width // 64,
        d_hidden=43 * width // 16,
        linear="dense",
    )
    model = build_model(config, vocab_size=4096)
    tx, _ = build_optimizer(OptimConfig(), steps=1000)
    key = jax.random.key(0)
    state = init_state(model, tx, mesh=make_mesh("data:1"), key=key)
    # Moments of zeros would be compressed to nothing.
    noise = jax.jit(lambda leaf: jax.random.normal(key, leaf.shape, leaf.dtype))
    moments = jax.tree.map(lambda x: noise(x) if x.ndim else x, state.opt_state)
    state = state._replace(opt_state=moments)
    return state, abstract_state(model, tx, key=key)


def measure(
    state: TrainState, abstract: TrainState, directory: Path, *, repeat: int
) -> dict[str, float]:
    """Time everything in turn, in an empty directory."""
    mesh = make_mesh("data:1")
    step, blocked = 0, []

    def save() -> None:
        nonlocal step
        step += 1
        with open_checkpoints(directory, keep=1) as checkpoints:
            began = time.perf_counter()
            checkpoints.save(state, step=step)
            blocked.append(time.perf_counter() - began)

    save()

    def restore() -> object:
        with open_checkpoints(directory) as checkpoints:
            return jax.block_until_ready(
                checkpoints.restore(abstract, step=step, mesh=mesh)
            )

    def verify() -> None:
        assert find_damage(step_dir(directory, step)) == []

    def rehash() -> None:
        write_manifest(step_dir(directory, step))

    best = fastest_in_turn(
        {
            "restore, verified": restore,
            "verify": verify,
            "save, until it is committed": save,
            "hash, sync and write the manifest": rehash,
        },
        repeat=repeat,
    )
    return best | {"save, until training goes on": min(blocked)}


if __name__ == "__main__":
    main()
