"""Why a run was stopped: which step, which examples, and what went bad first.

After `--guard.patience` updates in a row that were not taken parameters, optimiser
state and past outputs are those from before the first of them, so that its batch can be
done once more, with a look at everything on the way. That costs a compilation and a
pass, and a running step nothing.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.data import Batch
from lostjax.train.files import replace_file
from lostjax.train.guard import spike_limit
from lostjax.train.hosts import is_first_host
from lostjax.train.mesh import place_batch, tree_shardings
from lostjax.train.programs import build_gradient, build_guard
from lostjax.train.setup import Setup
from lostjax.train.stability import rms_by_path
from lostjax.train.state import TrainState

STOPPED_FILE = "stopped.json"
"""The report, in the run's directory."""
EXIT_CODE = 3
"""Of a run that was stopped so: starting it again alone would change nothing."""

_EXAMPLES_SHOWN = 16


class Streak(NamedTuple):
    """Updates in a row that were not taken."""

    last_step: int
    """Step of the last one, counted from 1."""
    length: int

    @property
    def first_step(self) -> int:
        """Step of the first one, counted from 1."""
        return self.last_step - self.length + 1


class Diagnosis(NamedTuple):
    """What the first batch of a streak looks like."""

    streak: Streak
    loss: float
    """Mean cross entropy in nats."""
    culprit: str
    """What went bad first, in words: the loss, a term, a gradient, an update."""
    bad_gradients: tuple[str, ...]
    """Paths of the gradients that are not finite, in the tree's order; with the layer
    from 0 where it is one of several."""
    examples: tuple[tuple[int, int], ...]
    """Number and epoch of each row of the batch."""


def diagnose(run: Setup, state: TrainState, streak: Streak) -> Diagnosis:
    """Do the first batch of a streak once more and look at it.

    Args:
      run: the run.
      state: as the streak left it; not used up.
      streak: at least as long as the run's patience. All processes call this.
    """
    number = streak.first_step - 1
    plan = run.data.train
    batch = place_batch(
        lambda rows: plan.batch_at(number, rows=rows),
        mesh=run.mesh,
        batch_size=run.config.batch_size,
    )
    state = state._replace(step=jnp.full_like(state.step, number))
    means, gradients, updates = _look(run, state, batch)
    bad_gradients, bad_updates = _find_bad(gradients), _find_bad(updates)
    whole = plan.batch_at(number)
    loss = float(means["loss"])
    return Diagnosis(
        streak=streak,
        loss=loss,
        culprit=_name_culprit(means, bad_gradients, bad_updates)
        or _describe_spike(run, state, loss),
        bad_gradients=tuple(bad_gradients),
        examples=tuple(
            zip(whole.example_B.tolist(), whole.epoch_B.tolist(), strict=True)
        ),
    )


def report_streak(run: Setup, state: TrainState, streak: Streak) -> int:
    """Diagnose a streak, print it, write it down, and give the exit code."""
    found = diagnose(run, state, streak)
    if not is_first_host():
        return EXIT_CODE
    path = run.directory / STOPPED_FILE
    print(describe(found, path=path), file=sys.stderr)
    try:
        replace_file(path, (json.dumps(_as_json(found), indent=1) + "\n").encode())
    except OSError as error:
        print(f"{path}: cannot be written: {error.strerror}", file=sys.stderr)
    return EXIT_CODE


def describe(found: Diagnosis, *, path: Path) -> str:
    """Put a diagnosis into some lines for the terminal."""
    streak = found.streak
    shown = found.examples[:_EXAMPLES_SHOWN]
    rows = ", ".join(f"{number} (epoch {epoch})" for number, epoch in shown)
    more = len(found.examples) - len(shown)
    rest = f" and {more} more" if more else ""
    bad = found.bad_gradients
    gradients = f"; gradients that are not: {len(bad)}, first {bad[0]}" if bad else ""
    return (
        f"stopped after step {streak.last_step}: {streak.length} updates in a row were "
        f"not taken, the first at step {streak.first_step}\n"
        f"  first to go bad there: {found.culprit}{gradients}\n"
        f"  its examples: {rows}{rest}\n"
        f"  the parameters are those of step {streak.first_step - 1}; checkpoints "
        f"stand; more in {path}"
    )


def _as_json(found: Diagnosis) -> dict[str, Any]:
    return {
        "first_step": found.streak.first_step,
        "last_step": found.streak.last_step,
        "skipped_in_a_row": found.streak.length,
        "loss": found.loss if np.isfinite(found.loss) else None,
        "first_to_go_bad": found.culprit,
        "bad_gradients": list(found.bad_gradients),
        "examples": [{"example": i, "epoch": e} for i, e in found.examples],
    }


def _look(run: Setup, state: TrainState, batch: Batch) -> tuple[Any, Any, Any]:
    """Give the means, and the root mean squares of gradients and updates by path."""
    gradient = build_gradient(run)
    shardings = tree_shardings(state.params, run.mesh)

    def look(state: TrainState, batch: Batch) -> Any:
        here = gradient(state, batch)
        grads = jax.lax.with_sharding_constraint(here.grads, shardings)
        updates, _ = run.tx.update(grads, state.opt_state, state.params)
        return here.means, rms_by_path(grads), rms_by_path(updates)

    found: tuple[Any, Any, Any] = jax.device_get(jax.jit(look)(state, batch))
    return found


def _find_bad(rms: Mapping[str, Any]) -> list[str]:
    """List what is not finite; an array is a tensor's layers."""
    bad = []
    for path, values in rms.items():
        for layer in np.flatnonzero(~np.isfinite(values)):
            bad.append(f"{path}, layer {layer}" if np.ndim(values) else path)
    return bad


def _name_culprit(
    means: Mapping[str, Any], bad_gradients: list[str], bad_updates: list[str]
) -> str:
    """Name the first thing that is not finite, or ''."""
    for name, value in means.items():
        if not np.isfinite(value):
            what = "loss" if name == "loss" else f"term {name} of the objective"
            return f"the {what}, {float(value)}"
    if bad_gradients:
        return f"the gradient of {bad_gradients[0]}"
    if bad_updates:
        return f"the update of {bad_updates[0]}"
    return ""


def _describe_spike(run: Setup, state: TrainState, loss: float) -> str:
    limit = float(spike_limit(build_guard(run.config), state.guard))
    if not np.isfinite(limit):
        return "the gradient norm, which is past what float32 holds"
    return (
        f"the loss, {loss:.4g}, far above the recent ones (now up to {limit:.4g} would "
        f"do, {run.config.guard.sigma:g} deviations above their mean)"
    )
