"""Report why the guard stopped a run: the step, its examples, and the first bad tensor.

The guard stops a run if too many updates in a row are skipped, or if the loss spikes
too often after one checkpoint (`train.rollback`).

Skipped updates change neither parameters nor optimiser state nor past outputs. After
`--guard.patience` of them in a row, the first one's batch is therefore computed again,
and every tensor on the way is inspected (`train.watch.first_bad`). This costs two
compilations and two passes, and nothing while the run steps.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.data import Batch
from lostjax.steps.guard import spike_limit
from lostjax.steps.readings import rms_by_path
from lostjax.steps.state import TrainState, model_variables
from lostjax.train.build.job import Job
from lostjax.train.build.model import place_model
from lostjax.train.build.programs import build_gradient, build_guard, build_weighing
from lostjax.train.devices.sharding import place_batch, tree_shardings
from lostjax.train.watch.first_bad import Outputs, look_at_outputs, order_backward
from lostjax.train.watch.verdict import Streak


class Diagnosis(NamedTuple):
    """The findings about the first batch of a streak."""

    streak: Streak
    """The skipped updates; of length 1 if the run stopped because of spikes."""
    loss: float
    """Mean cross entropy, nats per token."""
    culprit: str
    """Description of the first bad value: the loss, a term, a gradient, an update."""
    bad_outputs: tuple[str, ...]
    """Names of module outputs that are not finite, in the order of computation."""
    bad_gradients: tuple[str, ...]
    """Paths of gradients that are not finite, from the head down, as the backward pass
    computes them; stacked ones with their layer, from 0."""
    examples: tuple[tuple[int, int], ...]
    """Number and epoch of each row of the batch."""
    rollbacks: int = 0
    """Number of earlier rollbacks to the same checkpoint."""


def diagnose(job: Job, state: TrainState, streak: Streak) -> Diagnosis:
    """Compute the first batch of a streak again, and inspect it.

    All processes call this.

    Args:
      job: the run.
      state: the state after the streak; not donated.
      streak: the skipped updates, at least as many as the run's patience.

    Returns:
      The findings.
    """
    state = state._replace(step=jnp.full_like(state.step, streak.first_step - 1))
    number = int(state.batches)
    placed = place_batch(job.data.train, number, mesh=job.mesh)
    batch = build_weighing(job)(placed)
    length = job.config.data.seq_len
    model = place_model(
        job.model, config=job.config.model, mesh=job.mesh, length=length
    )
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
        or _name_spike(job, state, loss),
        bad_outputs=outputs.bad,
        bad_gradients=tuple(bad_gradients),
        examples=list_examples(job, number),
    )


def list_examples(job: Job, number: int) -> tuple[tuple[int, int], ...]:
    """List the number and the epoch of each row of a batch."""
    whole = job.data.train.batch_at(number)
    return tuple(zip(whole.example_B.tolist(), whole.epoch_B.tolist(), strict=True))


def _look(job: Job, state: TrainState, batch: Batch) -> tuple[Any, Any, Any]:
    """Compute the means, and the RMS of gradients and of updates by path."""
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
    """List the paths whose RMS is not finite, from the head down.

    Args:
      rms: RMS by path; an array (L,) for stacked layers.
      outputs: the order of the modules.
    """
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
    """Name the first value that is not finite; '' if all are finite."""
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


def _name_spike(job: Job, state: TrainState, loss: float) -> str:
    limit = float(spike_limit(build_guard(job.config), state.guard))
    if not np.isfinite(limit):
        return "the gradient norm, which overflows float32"
    return describe_spike(job, loss, f"now up to {limit:.4g}")


def describe_spike(job: Job, loss: float, up_to: str) -> str:
    """Describe a loss that is a spike, and the loss that would be allowed."""
    return (
        f"the loss, {loss:.4g}, far above the recent ones (allowed: {up_to}, which is "
        f"{job.config.guard.sigma:g} standard deviations above their mean)"
    )
