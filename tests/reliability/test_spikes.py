"""A run that goes back from loss spikes: by the command line, killed and stopped.

Steps are 24, a checkpoint is due every 6. The spikes come before and at a step whose
checkpoint is due, right after one, on going back, and in the last step:

    batch (from 1)     10   11   17   24   36
    at step (from 1)   10    7   12   13   24
    back to step        6    6    6   12   18
    passed over then    4    5   11   12   18
"""

import json
import os
import random
import re
import shutil
import signal
import time

import pytest

from lostjax.train import stepping
from lostjax.train.__main__ import main
from lostjax.train.keep.step_directories import list_steps
from lostjax.train.log.json_lines import read_metrics
from lostjax.train.recorder import Recorder
from lostjax.train.watch.stop_report import STOPPED_FILE

pytestmark = pytest.mark.usefixtures("plain_report", "compile_once")
SPIKES = (10, 11, 17, 24, 36)
PASSED_OVER = [0] * 6 + [11] * 6 + [12] * 6 + [18] * 6
GUARD = ["--guard.spike=rollback", "--guard.window=4", "--guard.sigma=40"]
SPIKE_LINE = re.compile(
    r"^step (\d+): loss 10\d\d is a spike, above \d+\.\d+: back to step (\d+); "
    r"(\d+ batch\w*) passed over$",
    re.MULTILINE,
)


@pytest.fixture(scope="module")
def words(flags):
    return [*flags, *GUARD, "--mesh=data:1"]


def spike_at(batches):
    return "--guard.fault=" + ",".join(f"spike@{batch}" for batch in batches)


class Moments:
    """Do something before a batch is placed, or after the run went back."""

    def __init__(self, monkeypatch):
        self.at_batch, self.at_rollback = {}, {}
        self.placed = []
        place, roll_back = stepping.place_batch, Recorder.roll_back
        self._rollbacks = 0

        def placing(*arguments, **named):
            self.at_batch.pop(len(self.placed), lambda: None)()
            batch = place(*arguments, **named)
            self.placed.append(batch)
            return batch

        def rolling(recorder, spike, *, step):
            roll_back(recorder, spike, step=step)
            self._rollbacks += 1
            self.at_rollback.pop(self._rollbacks, lambda: None)()

        monkeypatch.setattr(stepping, "place_batch", placing)
        monkeypatch.setattr(Recorder, "roll_back", rolling)


@pytest.fixture
def moments(monkeypatch):
    return Moments(monkeypatch)


def copy_as_killed(directory, to):
    """Copy what is on the disk now: all that a process that is killed leaves."""
    try:
        shutil.copytree(directory, to)
    except shutil.Error:  # a save was renamed meanwhile
        shutil.rmtree(to)
        copy_as_killed(directory, to)


def ask_to_stop():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_goes_back_from_its_spikes_and_killed_or_not_ends_the_same(
    words, moments, outcome, tmp_path, capsys
):
    words = [*words, spike_at(SPIKES)]
    whole = tmp_path / "whole"
    # Right after going back, and some steps later: the lines before are gone.
    moments.at_rollback[2] = lambda: copy_as_killed(whole, tmp_path / "killed-2")
    moments.at_batch[25] = lambda: copy_as_killed(whole, tmp_path / "killed-3")
    assert main([*words, f"--run-dir={whole}"]) == 0
    said = capsys.readouterr().out
    assert SPIKE_LINE.findall(said) == [
        (str(step), str(back), str(passed))
        for step, back, passed in [
            (10, 6, "4 batches"),
            (7, 6, "1 batch"),
            (12, 6, "6 batches"),
            (13, 12, "1 batch"),
            (24, 18, "6 batches"),
        ]
    ]
    assert re.search("^batches passed over +18$", said, re.MULTILINE)
    metrics = read_metrics(whole)
    assert [line["step"] for line in metrics] == list(range(1, 25))
    assert [line["passed_over"] for line in metrics] == PASSED_OVER
    assert all(line["loss"] < 100 and not line["skipped"] for line in metrics)
    assert "batches passed over" in (whole / "report.html").read_text()
    for number in (2, 3):
        killed = tmp_path / f"killed-{number}"
        assert main([*words, f"--run-dir={killed}"]) == 0
        assert outcome(killed) == outcome(whole)


@pytest.mark.slow  # tests/train/test_rollback.py stops and kills runs at random steps
def test_a_run_that_is_stopped_goes_back_as_far_as_one_that_is_not(
    words, moments, outcome, tmp_path
):
    """Also where so many stops are between that an older checkpoint would go."""
    words = [*words, "--keep=1", spike_at(SPIKES)]
    assert main([*words, f"--run-dir={tmp_path / 'whole'}"]) == 0
    stopped = f"--run-dir={tmp_path / 'stopped'}"
    del moments.placed[:]
    moments.at_batch = dict.fromkeys((7, 8), ask_to_stop)
    for step in (8, 9):
        assert main([*words, stopped]) == 143
        steps = list_steps(tmp_path / "stopped" / "checkpoints")
        assert steps == [6, step], "the one that was due stays"
    # The next step spikes, and that is seen on the way out: it is not saved.
    moments.at_batch = {9: ask_to_stop}
    assert main([*words, stopped]) == 143
    assert list_steps(tmp_path / "stopped" / "checkpoints") == [6, 9]
    assert main([*words, stopped]) == 0
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_spikes_again_and_again_end_the_run(words, moments, tmp_path, capsys):
    run, killed = tmp_path / "run", tmp_path / "killed"
    words = [*words, "--guard.patience=3", spike_at(range(10, 101))]
    moments.at_rollback[2] = lambda: copy_as_killed(run, killed)
    assert main([*words, f"--run-dir={run}"]) == 3
    said = capsys.readouterr()
    assert len(SPIKE_LINE.findall(said.out)) == 3
    first = "stopped after step 7: the loss spiked again after rolling back 3 times to"
    assert said.err.startswith(first)
    found = json.loads((run / STOPPED_FILE).read_text())
    assert (found["last_step"], found["rollbacks"]) == (7, 3)
    assert found["loss"] > 1000 and "far above the recent ones" in said.err
    rows = zip(moments.placed[15].example_B, moments.placed[15].epoch_B, strict=True)
    assert found["examples"] == [{"example": e, "epoch": o} for e, o in rows]
    assert list_steps(run / "checkpoints") == [6]
    assert not (run / "report.html").exists()
    for again in (run, killed):
        (run / STOPPED_FILE).unlink(missing_ok=True)
        assert main([*words, f"--run-dir={again}"]) == 3
        assert json.loads((again / STOPPED_FILE).read_text()) == found


@pytest.mark.slow
def test_without_spikes_it_is_the_run_that_would_skip_them(words, outcome, tmp_path):
    for choice in ("skip", "rollback"):
        here = [word.replace("rollback", choice) for word in words]
        assert main([*here, f"--run-dir={tmp_path / choice}"]) == 0
    assert outcome(tmp_path / "skip") == outcome(tmp_path / "rollback")


@pytest.mark.torture
@pytest.mark.parametrize(
    "processes, mesh", [(1, "data:1"), (1, "data:4"), (2, "data:2"), (2, "data:4")]
)
def test_killed_at_random_it_ends_the_same(
    flags, start, host_flags, outcome, tmp_path, processes, mesh
):
    """All processes at once, as by a loss of power."""

    def begin(name):
        words = [*flags, *GUARD, spike_at(SPIKES), "--stability.every=4"]
        words.append(f"--run-dir={tmp_path / name}")
        if processes == 1:
            return [start(*words, f"--mesh={mesh}")]
        each = host_flags(processes, mesh=mesh)
        return [start(*words, *extra) for extra in each]

    whole = begin("whole")
    assert [run.finish() for run in whole] == [0] * processes, whole[0].said()
    metrics = read_metrics(tmp_path / "whole")
    assert [line["passed_over"] for line in metrics] == PASSED_OVER
    rng = random.Random(processes)
    for _ in range(4):
        group = begin("killed")
        seen = rng.randint(0, 5)
        came = group[0].wait_until(
            lambda group=group, seen=seen: group[0].said().count("is a spike") >= seen
        )
        time.sleep(rng.uniform(0, 0.2))
        for run in group:
            run.send(signal.SIGKILL)
        ends = [run.finish() for run in group]
        print(f"killed after {seen} spikes ({came}): {ends}")
    last = begin("killed")
    assert [run.finish() for run in last] == [0] * processes, last[0].said()
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    readings = [tmp_path / name / "stability.jsonl" for name in ("killed", "whole")]
    assert readings[0].read_text() == readings[1].read_text()
