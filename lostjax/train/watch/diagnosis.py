"""Why a run was stopped: which step, which examples, and what went bad first.

Either updates were not taken too often in a row, or the loss spiked too often after one
checkpoint (`train.rollback`).

After `--guard.patience` updates in a row that were not taken parameters, optimiser
state and past outputs are those from before the first of them, so that its batch can be
done once more, with a look at everything on the way (`train.watch.first_bad`). That
costs two compilations and passes, and a running step nothing.
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
from lostjax.disk.files import replace_file
from lostjax.steps.guard import spike_limit
from lostjax.steps.readings import rms_by_path
from lostjax.steps.state import TrainState, model_variables
from lostjax.train.build.job import Job
from lostjax.train.build.model import place_model
from lostjax.train.build.programs import build_gradient, build_guard
from lostjax.train.devices.hosts import is_first_host
from lostjax.train.devices.mesh import place_batch, tree_shardings
from lostjax.train.watch.first_bad import Outputs, look_at_outputs, order_backward
from lostjax.train.watch.verdict import Spike, Streak

STOPPED_FILE = "stopped.json"
"""The report, in the run's directory."""
EXIT_CODE = 3
"""Of a run that was stopped so: starting it again alone would change nothing."""

_EXAMPLES_SHOWN = 16


class Diagnosis(NamedTuple):
    """What the first batch of a streak looks like."""

    streak: Streak
    """Updates that were not taken; one where spikes came again and again."""
    loss: float
    """Mean cross entropy in nats."""
    culprit: str
    """What went bad first, in words: the loss, a term, a gradient, an update."""
    bad_outputs: tuple[str, ...]
    """What modules gave that is not finite, in the order of computing."""
    bad_gradients: tuple[str, ...]
    """Paths of the gradients that are not finite, from the head down as the backward
    pass makes them; with the layer from 0 where it is one of several."""
    examples: tuple[tuple[int, int], ...]
    """Number and epoch of each row of the batch."""
    rollbacks: int = 0
    """Times that the run had gone back before, to one checkpoint."""


def diagnose(job: Job, state: TrainState, streak: Streak) -> Diagnosis:
    """Do the first batch of a streak once more and look at it.

    Args:
      run: the run.
      state: as the streak left it; not used up.
      streak: at least as long as the run's patience. All processes call this.
    """
    state = state._replace(step=jnp.full_like(state.step, streak.first_step - 1))
    number = int(state.batches)
    batch = place_batch(job.data.train, number, mesh=job.mesh)
    model = place_model(job.model, config=job.config.model, mesh=job.mesh)
    outputs = look_at_outputs(model, model_variables(state), batch)
    means, gradients, updates = _look(job, state, batch)
    bad_gradients = _find_bad(gradients, outputs)
    loss = float(means["loss"])
    return Diagnosis(
        streak=streak,
        loss=loss,
        culprit=_name_culprit(
            outputs, means, bad_gradients, _find_bad(updates, outputs)
        )
        or _describe_spike(job, state, loss),
        bad_outputs=outputs.bad,
        bad_gradients=tuple(bad_gradients),
        examples=_examples(job, number),
    )


def report_streak(job: Job, state: TrainState, streak: Streak) -> int:
    """Diagnose a streak, print it, write it down, and give the exit code."""
    return _report(job, diagnose(job, state, streak))


def report_spike(job: Job, spike: Spike, *, offset: int, rollbacks: int) -> int:
    """Print and write down which spike is one too many, and give the exit code.

    Args:
      run: the run.
      spike: the last one.
      offset: batches that were passed over before its step.
      rollbacks: times that the run had gone back, to the checkpoint before it.
    """
    found = Diagnosis(
        streak=Streak(spike.step, 1),
        loss=spike.loss,
        culprit=_say_spike(job, spike.loss, f"up to {spike.limit:.4g}"),
        bad_outputs=(),
        bad_gradients=(),
        examples=_examples(job, spike.step - 1 + offset),
        rollbacks=rollbacks,
    )
    return _report(job, found)


def _examples(job: Job, number: int) -> tuple[tuple[int, int], ...]:
    whole = job.data.train.batch_at(number)
    return tuple(zip(whole.example_B.tolist(), whole.epoch_B.tolist(), strict=True))


def _report(job: Job, found: Diagnosis) -> int:
    if not is_first_host():
        return EXIT_CODE
    path = job.directory / STOPPED_FILE
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
    why = (
        f"{streak.length} updates in a row were not taken, the first at step "
        f"{streak.first_step}"
    )
    kept = f"the parameters are those of step {streak.first_step - 1}; "
    if found.rollbacks:
        again = "once" if found.rollbacks == 1 else f"{found.rollbacks} times"
        why = f"a loss spike again, after going back {again} to one checkpoint"
        kept = ""
    return (
        f"stopped after step {streak.last_step}: {why}\n"
        f"  first to go bad there: {found.culprit}{gradients}\n"
        f"  its examples: {rows}{rest}\n"
        f"  {kept}checkpoints stand; more in {path}"
    )


def _as_json(found: Diagnosis) -> dict[str, Any]:
    return {
        "first_step": found.streak.first_step,
        "last_step": found.streak.last_step,
        "skipped_in_a_row": found.streak.length,
        "rollbacks": found.rollbacks,
        "loss": found.loss if np.isfinite(found.loss) else None,
        "first_to_go_bad": found.culprit,
        "bad_outputs": list(found.bad_outputs),
        "bad_gradients": list(found.bad_gradients),
        "examples": [{"example": i, "epoch": e} for i, e in found.examples],
    }


def _look(job: Job, state: TrainState, batch: Batch) -> tuple[Any, Any, Any]:
    """Give the means, and the root mean squares of gradients and updates by path."""
    gradient = build_gradient(job)
    shardings = tree_shardings(state.params, job.mesh)

    def look(state: TrainState, batch: Batch) -> Any:
        here = gradient(state, batch)
        grads = jax.lax.with_sharding_constraint(here.grads, shardings)
        updates, _ = job.tx.update(grads, state.opt_state, state.params)
        return here.means, rms_by_path(grads), rms_by_path(updates)

    found: tuple[Any, Any, Any] = jax.device_get(jax.jit(look)(state, batch))
    return found


def _find_bad(rms: Mapping[str, Any], outputs: Outputs) -> list[str]:
    """List what is not finite, from the head down; an array is a tensor's layers."""
    bad: list[tuple[str, int | None]] = []
    for path, values in rms.items():
        for layer in np.flatnonzero(~np.isfinite(values)):
            bad.append((path, int(layer) if np.ndim(values) else None))
    return [
        path if layer is None else f"{path}, layer {layer}"
        for path, layer in order_backward(bad, outputs.entered)
    ]


def _name_culprit(
    outputs: Outputs,
    means: Mapping[str, Any],
    bad_gradients: list[str],
    bad_updates: list[str],
) -> str:
    """Name the first thing that is not finite, or ''."""
    if outputs.bad:
        return outputs.bad[0]
    for name, value in means.items():
        if not np.isfinite(value):
            what = "loss" if name == "loss" else f"term {name} of the objective"
            return f"the {what}, {float(value)}"
    if bad_gradients:
        return f"the gradient of {bad_gradients[0]}"
    if bad_updates:
        return f"the update of {bad_updates[0]}"
    return ""


def _describe_spike(job: Job, state: TrainState, loss: float) -> str:
    limit = float(spike_limit(build_guard(job.config), state.guard))
    if not np.isfinite(limit):
        return "the gradient norm, which is past what float32 holds"
    return _say_spike(job, loss, f"now up to {limit:.4g}")


def _say_spike(job: Job, loss: float, up_to: str) -> str:
    return (
        f"the loss, {loss:.4g}, far above the recent ones ({up_to} would do, "
        f"{job.config.guard.sigma:g} deviations above their mean)"
    )
