"""A run in a place of its own, with what an attack needs to get at it."""

import os
import re
import shutil
import signal
import subprocess
import time

from campaign.supervisor import (
    ROOT,
    TRAIN,
    Pipes,
    Started,
    freeze_in,
    group_flags,
)

STEPS, SAVE_EVERY, EVALUATE_EVERY = 8, 2, 3
FLAGS = (  # what traces and compiles least
    "--preset=smoke",
    "--data.seq-len=16",
    "--model.d-model=16",
    "--model.n-layers=1",
    "--model.d-hidden=16",
    "--model.linear=dense",
    "--model.remat=none",
    "--batch-size=4",
    f"--steps={STEPS}",
    f"--checkpoint-every={SAVE_EVERY}",
    f"--eval-every={EVALUATE_EVERY}",
)
IDLE_SECONDS = 60
"""Seconds without the CPU and without a line after which a process hangs."""

LATE_SECONDS = 20
"""Seconds by which a process may wait longer than it says that it does."""

LONGEST_SECONDS = 600
CHEAP = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
WAITS = re.compile(r"^waiting for .* \((\d+) s; gives up after (\d+) s\)$", re.M)
BROKEN = ("Traceback (most recent call last)", "Check failure stack", "Fatal Python")


class Violation(Exception):
    """What a run did that no run may do: a word for it, and the details."""


class Small(Started):
    """A process of the campaign's run."""

    steps, evaluate_every = STEPS, EVALUATE_EVERY
    pipes = words = None


class World:
    """A run, its directories and its processes.

    Args:
      place: an empty directory.
      shared: the directory of what draws share: text, caches, references.
      processes: number of the run's processes.
      rng: draws whatever the attack needs.
      phase: where to freeze it.
      codes: exit codes other than 0 that its processes may have.
    """

    def __init__(self, place, *, shared, processes=1, rng=None, phase="", codes=()):
        self.place, self.shared, self.rng = place, shared, rng
        self.processes, self.phase = processes, phase
        self.directory = place / "run"
        self.cache = shared / "cache"
        self.codes, self.detail = set(codes), ""
        self.hit = None
        """The phases in which the run was frozen; None if it came to its end before."""
        self.said = ""
        """What the processes said that have ended."""
        self.after = lambda: None
        """Undoes the attack before the run is started again."""
        self.check = lambda: None
        """Looks for harm besides the run's own."""
        self._mounts, self._started = [], []

    def start(self, *, program=TRAIN, before=(), piped=False, out=None, odd=None):
        """Start all processes of the run; the last one with one more flag."""
        words = [f"--run-dir={self.directory}", *FLAGS]
        words += [f"--data.source={self.shared / 'text.txt'}"]
        words += [f"--data.cache-dir={self.cache}"]
        each = [["--mesh=data:1"]]
        if self.processes > 1:
            each = group_flags(self.processes, mesh=f"data:{self.processes}")
        each[-1] += [odd] if odd else []
        options = {"program": program, "before": before, "out": out}
        return [self._begin([*words, *own], piped, options) for own in each]

    def start_again(self, run):
        """Start one process once more, with the words that it was started with."""
        return self._begin(run.words, False, {})

    def _begin(self, words, piped, options):
        log = self.place / f"log-{len(self._started)}"
        pipes = Pipes(log) if piped else None
        if pipes:
            options = options | {"out": pipes.writers}
        run = Small(words, log=log, environment=self.environment, **options)
        if pipes:
            pipes.started()
            run.pipes = pipes
        run.words = words
        self._started.append(run)
        return run

    @property
    def environment(self):
        return os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(self.shared / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", CHEAP),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), os.environ.get("PYTHONPATH", "")]
            ),
        }

    def freeze(self, group):
        """Freeze all processes when the first one is in the phase that was drawn."""
        self.hit = freeze_in(self.phase, group[0], self.rng)
        for run in group[1:]:
            run.send(signal.SIGSTOP)

    def thaw(self, *group):
        for run in group:
            run.send(signal.SIGCONT)

    def mount(self, size):
        """Put the run on a disk of its own; return a function that fills it."""
        disk = self.place / "disk"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        subprocess.run(command, check=True)
        self._mounts.append(disk)
        self.directory = disk / "run"
        return disk

    def end(self, group):
        """Wait for the ends of processes, and hold them to what every end must be."""
        ends = []
        for run in group:
            code, said = self._wait(run), run.said()
            self.said += said
            for sign in BROKEN:
                if sign in said:
                    raise Violation("traceback", said[said.index(sign) :])
            if code not in {0, *self.codes}:
                raise Violation(
                    "exit code", f"{code}, not of {sorted(self.codes)}: {said}"
                )
            if code > 0 and run.pipes is None and not said.strip():
                raise Violation("silent", f"exit code {code} and not a word")
            ends.append(code)
        return ends

    def _wait(self, run):
        """Wait for an end while there is progress, but no longer than a run says."""
        began = progressed = time.monotonic()
        used, printed = _cpu_seconds(run.process.pid), 0
        while run.process.poll() is None:
            time.sleep(0.02)
            now, more, size = (
                time.monotonic(),
                _cpu_seconds(run.process.pid),
                run.count_printed(),
            )
            if more > used + 0.2 or size > printed:
                progressed, used, printed = now, more, size
            idle = now - progressed > IDLE_SECONDS
            if idle or now - began > LONGEST_SECONDS or waits_too_long(run.said()):
                raise Violation("hang", run.said())
        return run.process.returncode

    def close(self):
        """End what still runs, and remove the place."""
        for run in self._started:
            run.process.kill()
            run.process.wait()
        for disk in self._mounts:
            subprocess.run(["umount", "-l", str(disk)], check=True)
        shutil.rmtree(self.place)


def waits_too_long(said):
    """Return whether a process has waited for longer than it said that it would."""
    return any(
        int(waited) > int(bound) + LATE_SECONDS for waited, bound in WAITS.findall(said)
    )


def _cpu_seconds(pid):
    """CPU seconds of a process so far; infinity of one that has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
