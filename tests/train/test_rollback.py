"""Going back: which batches a run sees, whatever happens to it on the way.

The real loop, recorder, files and order of batches, around a step that only notes its
batch and checkpoints that are kept in memory. What should come out is worked out from
the rule alone, by a few lines that know nothing of a loop.
"""

import dataclasses
import math
import tempfile
from contextlib import closing, suppress
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lostjax.errors import ConfigError
from lostjax.steps.gradient import make_gradient
from lostjax.steps.guard import Guard, count_update, init_guard, is_spike
from lostjax.steps.objective import Term
from lostjax.steps.state import TrainState
from lostjax.train import loop, rollback
from lostjax.train.build.initial import start_state
from lostjax.train.build.job import prepare_job
from lostjax.train.build.programs import Compiled
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import GuardConfig
from lostjax.train.keep.checkpoints import Checkpoints
from lostjax.train.log.json_lines import JsonLines, read_metrics
from lostjax.train.log.sink import FanOut
from lostjax.train.recorder import Recorder
from lostjax.train.trial import run_trial
from lostjax.train.watch.signals import StopRequest
from lostjax.train.watch.stop_report import EXIT_CODE

STEPS = 12
SIGNAL = 15


def batches_seen(bad, *, every, patience):
    """Give the batch of each step, and the step of a spike that ends the run."""
    seen, offset, saved, times = [], 0, 0, 0
    while len(seen) < STEPS:
        batch = len(seen) + offset
        if batch not in bad:
            seen.append(batch)
            if len(seen) % every == 0:
                saved, times = len(seen), 0
        elif times == patience:
            return seen, len(seen) + 1
        else:
            times += 1
            offset += len(seen) + 1 - saved
            del seen[saved:]
    return seen, None


class InMemory(Checkpoints):
    """Checkpoints that are committed once they are waited for; one is kept."""

    def __init__(self):
        self.committed, self.saving = {}, {}
        self._asked_step = None

    def wait(self):
        self.committed |= self.saving
        self.saving = {}

    def save(self, state, *, step, also=None):
        if step == self._asked_step:
            return
        self.wait()
        self._asked_step = step
        kept = {also, max(self.committed, default=None)}
        self.committed = {s: self.committed[s] for s in kept & set(self.committed)}
        self.saving = {step: jax.tree.map(jnp.copy, state)}

    def find_whole_step(self):
        self._asked_step = max(self.committed, default=None)
        return self._asked_step

    def find_way_back(self, step):
        self.wait()
        assert step == 0 or step in self.committed, "it was kept"
        self._asked_step = step or None
        return step

    def forget_after(self, step):
        self.committed = {s: v for s, v in self.committed.items() if s <= step}

    def restore(self, abstract, *, step, mesh):
        return jax.tree.map(jnp.copy, self.committed[step])


def first_state(run):
    return TrainState(
        step=jnp.int32(0),
        offset=jnp.int32(0),
        params={"seen": jnp.full(STEPS, -1)},
        channels={},
        opt_state=(),
        guard=init_guard(),
    )


class Killed(Exception):
    """The process is gone."""


class NotingStep:
    """A step that notes its batch in the state, but for spikes."""

    def __init__(self, run, bad, event):
        self._bad = bad
        self._left, self._event = event
        plan = run.data.train
        self._numbers = {
            (int(batch.epoch_B[0]), int(batch.example_B[0])): number
            for number, batch in enumerate(map(plan.batch_at, range(100)))
        }
        assert len(self._numbers) == 100

    def __call__(self, state, batch):
        if self._left == 0:
            self._event()
        self._left -= 1
        number = self._numbers[int(batch.epoch_B[0]), int(batch.example_B[0])]
        seen, spiked = state.params["seen"], number in self._bad
        if not spiked:
            seen = seen.at[state.step].set(number)
        metrics = dict.fromkeys(("skipped", "skipped_in_a_row"), np.int32(spiked))
        metrics |= {"skipped_total": np.int32(spiked), "spiked": np.int32(spiked)}
        metrics |= {"loss": np.float32(number), "tokens": np.float32(8.0)}
        metrics |= {"gradient_norm": np.float32(1.0), "spike_limit": np.float32(0.0)}
        metrics |= {"passed_over": np.asarray(state.offset)}
        return state._replace(step=state.step + 1, params={"seen": seen}), metrics


def live(run, checkpoints, bad, event=(-1, None)):
    """Be a process of a run, until its end, a signal or a kill, as `session.train` is.

    Args:
      event: (n, what): before its n-th step, from 0, that happens.
    """
    what = {
        "stop": lambda: stop.ask(SIGNAL),
        "kill": lambda: kill(lost=True),
        "kill after saving": lambda: kill(lost=False),
    }

    def kill(*, lost):
        if lost:
            checkpoints.saving = {}
        checkpoints.wait()
        raise Killed

    stop = StopRequest()
    step = NotingStep(run, bad, (event[0], what.get(event[1])))
    compiled = Compiled(
        step, None, 0, lambda variables, batch: None, 0.0, None, lambda batch: batch
    )
    first = checkpoints.find_whole_step() or 0
    state = rollback.start_at(run, checkpoints, first)
    with closing(JsonLines(run.directory, resume_step=first)) as lines:
        recorder = Recorder(
            run,
            FanOut([lines]),
            log=None,
            started=0.0,
            spent=0.0,
            note=lambda text: None,
        )
        stepped = loop.step_to_end(
            run, compiled, state, recorder=recorder, checkpoints=checkpoints, stop=stop
        )
        is_kept = stepped.exit_code is None and stepped.verdict.roll_back is None
        if is_kept and (step := int(stepped.state.step)):
            also = rollback.find_anchor(run, stepped.state)
            checkpoints.save(stepped.state, step=step, also=also)
    checkpoints.wait()
    return stepped


@pytest.fixture(scope="module")
def config(tmp_path_factory, cache_dir):
    """A text of about twenty rows."""
    folder = tmp_path_factory.mktemp("rolled")
    words = "We hold these truths to be self-evident, that all are created equal. "
    (folder / "text.txt").write_text(words * 8)
    (folder / "heldout.txt").write_text(words[::-1] * 4)
    preset = get_preset("smoke")
    return dataclasses.replace(
        preset,
        steps=STEPS,
        batch_size=4,
        mesh="data:1",
        guard=GuardConfig(spike="rollback"),
        data=dataclasses.replace(
            preset.data,
            source=str(folder / "text.txt"),
            heldout=str(folder / "heldout.txt"),
            cache_dir=str(cache_dir),
            seq_len=24,
        ),
    )


@pytest.fixture(scope="module")
def prepared(config):
    return prepare_job(config)


EVENTS = st.tuples(
    st.integers(0, 20), st.sampled_from(["stop", "stop", "kill", "kill after saving"])
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(
    bad=st.sets(st.integers(0, 24), max_size=8),
    every=st.integers(1, 6),
    patience=st.integers(1, 3),
    events=st.lists(EVENTS, max_size=4),
)
# Stopped, gone back before there, killed: it must not go on from where it was stopped.
@example(bad={8}, every=6, patience=3, events=[(7, "stop"), (3, "kill"), (0, "stop")])
def test_a_run_sees_the_batches_that_the_rule_says(
    prepared, monkeypatch, bad, every, patience, events
):
    """Spikes anywhere, and kills and stops anywhere between them."""
    monkeypatch.setattr(rollback, "start_state", first_state)
    config = dataclasses.replace(
        prepared.config,
        checkpoint_every=every,
        guard=GuardConfig(spike="rollback", patience=patience),
    )
    seen, stopped_at = batches_seen(bad, every=every, patience=patience)
    checkpoints = InMemory()
    with tempfile.TemporaryDirectory() as folder:
        run = dataclasses.replace(prepared, config=config, directory=Path(folder))
        for event in events:
            with suppress(Killed):
                live(run, checkpoints, bad, event)
            lines = read_metrics(folder)
            assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
        stepped = live(run, checkpoints, bad)
        lines = read_metrics(folder)
    assert stepped.exit_code == (None if stopped_at is None else EXIT_CODE)
    if stopped_at is None:
        assert stepped.state.params["seen"].tolist() == seen
        assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
        assert [line["loss"] for line in lines] == seen
        assert int(stepped.state.offset) == seen[-1] - (STEPS - 1)
    else:
        assert lines[stopped_at - 1]["skipped"] == 1
        assert [line["loss"] for line in lines[: stopped_at - 1]] == seen


def test_terms_are_weighted_by_the_batches_gone_through(prepared):
    """Those passed over, too: they belong to an epoch."""
    term = Term(
        lambda state, prepared, targets_BT, logits_BTV: jnp.mean(logits_BTV, axis=-1),
        lambda batches: jnp.float32(batches),
    )
    gradient = jax.jit(make_gradient(prepared.model, terms={"mean": term}))
    state, batch = start_state(prepared), prepared.data.train.batch_at(0)
    norms = [
        optax.tree.norm(
            gradient(
                state._replace(step=jnp.int32(step), offset=jnp.int32(offset)), batch
            ).grads
        )
        for step, offset in [(5, 0), (2, 3), (2, 0)]
    ]
    assert norms[0] == norms[1] != norms[2]


def test_what_is_not_finite_is_no_spike():
    guard = Guard(sigma=6.0, window=3)
    state, spikes = init_guard(), []
    for loss in (2.0, 2.1, 1.9, math.nan, 9.0, math.inf, 2.0):
        loss = jnp.float32(loss)
        spikes.append(bool(is_spike(guard, state, loss=loss)))
        state = count_update(guard, state, taken=jnp.isfinite(loss), loss=loss)
    assert spikes == [False, False, False, False, True, False, False]


def test_a_run_that_could_go_back_for_ever_is_refused(config):
    guard = GuardConfig(spike="rollback", patience=0)
    with pytest.raises(ConfigError, match="--guard.patience=0: must be at least 1"):
        prepare_job(dataclasses.replace(config, guard=guard))


def test_a_run_in_memory_has_nothing_to_go_back_to(config):
    with pytest.raises(ConfigError, match="--guard.spike=rollback: not possible"):
        run_trial(config)
