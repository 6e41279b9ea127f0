"""Train until examples are forgotten, and save on the way.

Batches are a function of the step alone, so that a run that was killed continues from
its last check as if nothing had happened. Only a finished run becomes a run directory.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.disk.files import replace_file
from lostjax.errors import ConfigError
from lostjax.losses import sequence_means
from lostjax.nn import Transformer
from lostjax.optim import (
    mask_updates,
    saliency_mask,
    score_saliency,
    state_shardings,
)
from lostjax.steps import (
    ForgetBatch,
    UnlearningState,
    init_unlearning,
    make_forget_step,
    random_labels,
)
from lostjax.steps.guard import init_guard
from lostjax.steps.state import TrainState
from lostjax.train.keep.checkpoints import Checkpoints, open_checkpoints
from lostjax.train.keep.directory import refusing_disk_errors
from lostjax.train.keep.layout import CHECKPOINTS
from lostjax.typing import Batch, PyTree, Variables
from lostjax.unlearn.examples import Encoded, rows_at
from lostjax.unlearn.measure import place_rows, token_nats
from lostjax.unlearn.methods import Forgotten, Method, Settings
from lostjax.view.numbers import format_loss, format_seconds


class Plan(NamedTuple):
    """How examples are forgotten."""

    method: Method
    settings: Settings
    steps: int
    check_every: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    retain_weight: float
    saliency: float | None
    max_utility_loss: float | None
    seed: int


class Rows(NamedTuple):
    """What steps draw from."""

    answers: Encoded
    templates: Encoded
    reference_E: np.ndarray
    template_reference_E: np.ndarray
    retain: Encoded | None


class Check(NamedTuple):
    """What was measured after some steps."""

    step: int
    probability: float
    """Of the forgotten answers."""
    bits_per_byte: float
    """Of held-out text."""


CheckAt = Callable[[int, Variables], Check]
"""Measures a model after a number of steps."""


class Ended(NamedTuple):
    """The end of forgetting."""

    params: PyTree
    history: list[Check]
    is_stopped: bool
    """Whether the next check would have lost too much utility."""


class Forgetting:
    """Forgets examples of one model."""

    def __init__(
        self,
        model: Transformer,
        variables: Variables,
        *,
        plan: Plan,
        rows: Rows,
        mesh: Mesh,
        vocab_size: int,
    ) -> None:
        self._model, self._plan, self._rows, self._mesh = model, plan, rows, mesh
        self._vocab_size = vocab_size
        self._channels = variables["channels"]
        params = variables["params"]
        mask = None if plan.saliency is None else self._find_mask(params, plan.saliency)
        self._tx = make_optimizer(plan.learning_rate, plan.weight_decay, mask)
        shardings = state_shardings(self._tx, params)
        # Copies: a step writes over its state, and others read these parameters.
        start = init_unlearning(jax.tree.map(jnp.copy, params), self._tx)
        self.start = start._replace(
            opt_state=jax.device_put(start.opt_state, shardings),
            step=jax.device_put(start.step, NamedSharding(mesh, P())),
        )
        step = make_forget_step(
            self._forget_losses,
            self._tx,
            retain_losses=None if rows.retain is None else self._retain_losses,
            retain_weight=plan.retain_weight,
        )
        placed = jax.tree.map(lambda leaf: leaf.sharding, self.start)
        self._step = jax.jit(
            step,
            donate_argnums=0,
            out_shardings=(placed, NamedSharding(mesh, P())),
        )

    def run(self, folder: Path, *, check: CheckAt, before: Check) -> Ended:
        """Step to the end or to the budget, with a line for each check.

        Args:
          folder: of unfinished work, from `hold_work`; its last check is continued.
          check: measures a model.
          before: what it measured before.

        Raises:
          ConfigError: if even the first check lost too much utility.
        """
        place = folder / CHECKPOINTS
        with refusing_disk_errors(folder), open_checkpoints(place, keep=2) as kept:
            state, history = self._resume(kept, folder, before)
            print(f"{self._plan.steps} steps; compiling", flush=True)
            began = time.monotonic()
            first = history[-1].step
            for step in range(first, self._plan.steps):
                asked = time.monotonic()
                state, metrics = self._step(state, self._batch_at(step))
                jax.block_until_ready(metrics)  # CPU devices deadlock with many steps
                if step == first + 1:  # the first one compiled
                    self._print_cost(time.monotonic() - asked, done=step + 1)
                if (step + 1) % self._plan.check_every and step + 1 < self._plan.steps:
                    continue
                now = check(step + 1, self._bind(state.params))
                print(_describe(now, before, time.monotonic() - began), flush=True)
                if self._loses_too_much(now, before):
                    return self._return_to_last(kept, history, now, before)
                history.append(now)
                kept.save(self._as_train_state(state), step=now.step)
                kept.wait()
                text = json.dumps([each._asdict() for each in history])
                replace_file(folder / "history.json", text.encode())
        return Ended(state.params, history, is_stopped=False)

    def _find_mask(self, params: PyTree, fraction: float) -> PyTree:
        """Select the weights that the forgotten answers depend on most."""

        def loss(params: PyTree, batch: Batch) -> jax.Array:
            nats_BT = token_nats(self._model, self._bind(params), batch)
            return jnp.sum(jnp.where(batch.weights_BT > 0, nats_BT, 0.0))

        answers, size = self._rows.answers, self._plan.batch_size
        numbers = np.arange(-(-len(answers) // size) * size).reshape(-1, size)
        batches = (
            place_rows(
                answers.take(np.where(at < len(answers), at, -1)).as_batch(), self._mesh
            )
            for at in numbers
        )
        saliency = score_saliency(jax.jit(jax.grad(loss)), params, batches=batches)
        placed = jax.tree.map(
            lambda leaf, like: jax.device_put(leaf, like.sharding), saliency, params
        )
        try:
            return saliency_mask(placed, fraction)
        except ValueError as error:
            raise ConfigError(f"--saliency={fraction}: {error}") from None

    def _bind(self, params: PyTree) -> Variables:
        return {"params": params, "channels": self._channels}

    def _forget_losses(self, params: PyTree, batch: Forgotten) -> jax.Array:
        variables = self._bind(params)
        return self._plan.method.losses(
            lambda rows: token_nats(self._model, variables, rows),
            batch,
            self._plan.settings,
        )

    def _retain_losses(self, params: PyTree, batch: Batch) -> jax.Array:
        nats_BT = token_nats(self._model, self._bind(params), batch)
        return sequence_means(nats_BT, batch.weights_BT)

    def _batch_at(self, step: int) -> ForgetBatch:
        """Draw the batch of a step, a function of the step alone."""
        plan, rows = self._plan, self._rows
        at = rows_at(
            step,
            n_rows=len(rows.answers),
            batch_size=plan.batch_size,
            seed=plan.seed,
        )
        answer = rows.answers.take(at).as_batch()
        epoch = step * plan.batch_size // len(rows.answers)
        key = jax.random.fold_in(jax.random.key(plan.seed), epoch)
        labels_ET = random_labels(
            jnp.asarray(rows.answers.targets_ET), key, n_classes=self._vocab_size
        )
        forgotten = Forgotten(
            answer,
            rows.templates.take(at).as_batch(),
            rows.reference_E[at].astype(np.float32),
            rows.template_reference_E[at].astype(np.float32),
            np.asarray(labels_ET)[at],
        )
        retain = None
        if rows.retain is not None:
            kept = rows_at(
                step,
                n_rows=len(rows.retain),
                batch_size=plan.batch_size,
                seed=plan.seed + 1,
            )
            retain = rows.retain.take(kept).as_batch()
        placed: ForgetBatch = place_rows(ForgetBatch(forgotten, retain), self._mesh)
        return placed

    def _loses_too_much(self, check: Check, before: Check) -> bool:
        rise = check.bits_per_byte / before.bits_per_byte - 1
        limit = self._plan.max_utility_loss
        return not math.isfinite(rise) or (limit is not None and rise > limit)

    def _return_to_last(
        self, kept: Checkpoints, history: list[Check], check: Check, before: Check
    ) -> Ended:
        """Return to the last check within the budget."""
        rise = 100 * (check.bits_per_byte / before.bits_per_byte - 1)
        limit = self._plan.max_utility_loss
        flag = "" if limit is None else f"--max-utility-loss={limit}: "
        said = f"held-out bits per byte rose by {rise:.1f} % in {check.step} steps"
        if len(history) == 1:
            raise ConfigError(
                f"{flag}{said}, before the first check; a smaller --learning-rate or "
                "--check-every loses less at a time"
            )
        print(f"{flag}{said}; returning to step {history[-1].step}", flush=True)
        state = self._restore(kept, history[-1].step)
        return Ended(state.params, history, is_stopped=True)

    def _resume(
        self, kept: Checkpoints, folder: Path, before: Check
    ) -> tuple[UnlearningState, list[Check]]:
        """Start, or continue from the last check that was saved."""
        step = kept.find_whole_step()
        if not step:
            return self.start, [before]
        history = [before]
        path = folder / "history.json"
        if path.exists():
            found = [Check(**each) for each in json.loads(path.read_text())]
            history += [each for each in found if 0 < each.step <= step]
        if history[-1].step != step:  # killed between the two files
            history.append(Check(step, math.nan, math.nan))
        print(f"{folder}: continues from step {step}", flush=True)
        return self._restore(kept, step), history

    def _as_train_state(self, state: UnlearningState) -> TrainState:
        return TrainState(
            step=state.step,
            offset=jnp.int32(0),
            params=state.params,
            channels=self._channels,
            opt_state=state.opt_state,
            guard=init_guard(),
        )

    def _restore(self, kept: Checkpoints, step: int) -> UnlearningState:
        abstract = jax.eval_shape(lambda: self._as_train_state(self.start))
        found = kept.restore(abstract, step=step, mesh=self._mesh)
        state = UnlearningState(found.step, found.params, found.opt_state)
        placed: UnlearningState = jax.tree.map(
            lambda leaf, like: jax.device_put(leaf, like.sharding), state, self.start
        )
        return placed

    def _print_cost(self, seconds: float, *, done: int) -> None:
        """Print how long the steps after this one take."""
        n = self._plan.steps - done
        print(
            f"{n} more steps: about {format_seconds(n * seconds)}, and the checks; "
            "Ctrl-C ends them, and the same command continues",
            flush=True,
        )


def make_optimizer(
    learning_rate: float, weight_decay: float, mask: PyTree | None = None
) -> optax.GradientTransformation:
    """Make the optimiser that forgets: AdamW, of masked weights alone."""
    parts = [
        optax.clip_by_global_norm(1.0),
        optax.adamw(learning_rate, weight_decay=weight_decay),
    ]
    # Last, because momentum and decay move weights whose gradient is masked.
    return optax.chain(*parts, *([] if mask is None else [mask_updates(mask)]))


def _describe(check: Check, before: Check, seconds: float) -> str:
    rise = 100 * (check.bits_per_byte / before.bits_per_byte - 1)
    return (
        f"step {check.step}  forgotten answers have probability "
        f"{check.probability:.3f} ({before.probability:.3f} before)  held-out "
        f"{format_loss(check.bits_per_byte)} bits per byte ({rise:+.1f} %)  "
        f"{format_seconds(seconds)}"
    )
