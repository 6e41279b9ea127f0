"""What the guard costs: every update is looked at, and may be left.

    python benchmarks/guarded_step.py [--repeat 20] [--forms 'dense;lost'] [--rows 16]

The step of `benchmarks/step.py` (D256 L6 V4096, rows of 256 tokens) with the guard and
with its functions patched out, in one process, in turn; the fastest repetition of each
counts, and the median of the repetitions' ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest import mock

import jax
import jax.numpy as jnp
import optax
import step as plain
from step import GUARD, JaxStep, make_forms

from lostjax.steps import step as trainer
from lostjax.steps.guard import Updated
from lostjax.typing import PyTree


def main() -> None:
    """Time both and print the cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=20, help="repetitions")
    parser.add_argument("--forms", default="dense, products kept;lost, products kept")
    parser.add_argument("--rows", type=int, default=16, help="rows in a batch")
    options = parser.parse_args()
    plain.ROWS = options.rows
    print(f"{jax.devices()[0].device_kind}, {options.rows} rows")
    for name in options.forms.split(";"):
        form = make_forms(256)[name]
        guarded = {
            "guarded": JaxStep(form, guard=GUARD),
            "and spikes": JaxStep(form, guard=GUARD._replace(sigma=6.0)),
        }
        for run in guarded.values():
            run()  # compiled before the guard is patched out
        with unguarded():
            bare = JaxStep(form)
            bare()
        ratios = compare(bare, guarded, repeat=options.repeat)
        for kind, (fastest, median) in ratios.items():
            print(
                f"{name}, {kind}: {100 * (fastest - 1):+.2f} % of a step by the "
                f"fastest, {100 * (median - 1):+.2f} % by the median of pairs"
            )


def unguarded() -> AbstractContextManager[object]:
    """Take every update, and look at none, while a step is traced."""
    return mock.patch.multiple(
        trainer, update_if=update_always, count_update=lambda guard, state, **now: state
    )


def update_always(
    fit: object,
    tx: optax.GradientTransformation,
    *,
    grads: PyTree,
    opt_state: PyTree,
    params: PyTree,
    check_updates: bool,
) -> Updated:
    """Do what a step without a guard does."""
    updates, opt_state = tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    return Updated(jnp.bool(True), params, opt_state, updates)


def compare(
    bare: Callable[[], object], others: dict[str, Callable[[], object]], *, repeat: int
) -> dict[str, tuple[float, float]]:
    """Time in turn; gives ratios to `bare`: of fastest times, and median of pairs."""
    times: dict[str, list[float]] = {name: [] for name in ("bare", *others)}
    for _ in range(repeat):
        for name, run in {"bare": bare, **others}.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    base = times.pop("bare")
    return {
        name: (
            min(mine) / min(base),
            statistics.median(a / b for a, b in zip(mine, base, strict=True)),
        )
        for name, mine in times.items()
    }


if __name__ == "__main__":
    main()
