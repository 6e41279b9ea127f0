"""One of several processes dies: the others end soon, say so, and the run goes on."""

import random
import signal
import time

import pytest

from lostjax.train.devices.joining import SILENT_SECONDS

AT_ONCE = 20
"""Seconds within which a death ends all; mostly under one."""

MISSED = SILENT_SECONDS / 2 + 15
"""Seconds within which a process that is frozen ends all."""

DIED = ", which died or lost its network"


def end_of(run, timeout):
    began = time.monotonic()
    code = run.finish(timeout)
    return code, time.monotonic() - began


@pytest.mark.slow
def test_the_other_of_two_processes_ends_at_once(flags, start, host_flags, tmp_path):
    words = [f"--run-dir={tmp_path / 'run'}", *flags, "--steps=2000"]
    words.remove("--steps=24")
    first, second = [start(*words, *extra) for extra in host_flags(2, mesh="data:2")]
    first.wait_for_step(2)
    second.send(signal.SIGKILL)
    code, seconds = end_of(first, AT_ONCE)
    print(f"ended {seconds:.2f} s after the other, code {code}")
    assert code == 1, first.said()
    assert DIED in first.said() and "from its newest checkpoint" in first.said()
    left = tmp_path / "run" / "lock"
    assert not left.exists(), "another host would refuse to go on"


@pytest.mark.torture
@pytest.mark.parametrize("processes, mesh", [(2, "data:2"), (4, "data:4")])
def test_a_run_goes_on_after_one_of_its_processes_died(
    outcome, flags, start, host_flags, tmp_path, processes, mesh
):
    def begin(name):
        words = [f"--run-dir={tmp_path / name}", *flags]
        return [start(*words, *extra) for extra in host_flags(processes, mesh=mesh)]

    whole = begin("whole")
    assert [run.finish() for run in whole] == [0] * processes, whole[0].said()
    rng = random.Random(processes)
    for victim in (0, processes - 1, rng.randrange(processes)):
        group = begin("killed")
        more = group[0].steps_done() + rng.randint(1, 4)
        group[0].wait_for_step(more)
        time.sleep(rng.uniform(0, 0.3))
        group[victim].send(signal.SIGKILL)
        ends = [end_of(run, AT_ONCE) for run in group if run is not group[victim]]
        longest = max(seconds for _, seconds in ends)
        print(f"{victim} of {processes} killed: the others ended in {longest:.2f} s")
        for (code, _), run in zip(
            ends, (run for run in group if run is not group[victim]), strict=True
        ):
            assert code == 1 and DIED in run.said(), run.said()
    group = begin("killed")
    assert [run.finish() for run in group] == [0] * processes, group[0].said()
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.torture
@pytest.mark.parametrize(
    "number, mesh, limit",
    [(signal.SIGSTOP, "data:2", MISSED), (signal.SIGKILL, "data:4", AT_ONCE)],
)
def test_a_process_without_a_sign_of_life_is_missed(
    flags, start, host_flags, tmp_path, number, mesh, limit
):
    words = [f"--run-dir={tmp_path / 'run'}", *flags]
    first, second = (start(*words, *extra) for extra in host_flags(2, mesh=mesh))
    first.wait_for_step(2)
    second.send(number)
    code, seconds = end_of(first, limit)
    print(f"ended {seconds:.0f} s after the other got {number.name}, code {code}")
    assert code == 1 and DIED in first.said(), first.said()
