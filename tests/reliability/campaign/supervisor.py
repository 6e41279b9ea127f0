"""The real command line under a supervisor: started, looked at, frozen and killed.

What a process is doing is read from what a run leaves on the disk and says, not from a
hook in it.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from lostjax.train.log.json_lines import read_evaluations, read_metrics

ROOT = Path(__file__).parents[3]
TRAIN = ("-m", "lostjax.train")
PHASES = {  # and about how long each lasts, in seconds
    "start-up": 2.5,
    "compile": 1.5,
    "step": 0.3,
    "save": 0.08,
    "evaluation": 0.05,
    "final save": 0.08,
    "report": 0.4,
}

WAIT_SECONDS = 45
"""Seconds for which a process waits for others to start."""


class Started:
    """A run's process, and what it said."""

    steps, evaluate_every = 24, 3

    def __init__(self, words, *, log, environment, program=TRAIN, before=(), out=None):
        """Start the command line.

        Args:
          words: its flags, with `--run-dir=`.
          log: file of what it prints.
          environment: its variables.
          program: what Python runs.
          before: words before Python's, of a program that starts it.
          out: descriptors of standard output and error, instead of the log.
        """
        self.directory = Path(
            next(word for word in words if word.startswith("--run-dir="))[10:]
        )
        self._log = log
        with log.open("w") as file:
            stdout, stderr = out or (file, subprocess.STDOUT)
            self.process = subprocess.Popen(
                [*before, sys.executable, *program, *words],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C of these tests is not theirs
            )

    def said(self):
        return self._log.read_text(errors="replace")

    def count_printed(self):
        return self._log.stat().st_size

    def send(self, number):
        self.process.send_signal(number)

    def is_frozen(self):
        """Wait until the process that was sent SIGSTOP stops, or say that it ended."""
        if self.process.returncode is not None:
            return False
        what = os.WSTOPPED | os.WEXITED | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, what).si_code == os.CLD_STOPPED

    def finish(self, timeout=600):
        """Give the exit code, negative where a signal ended it."""
        try:
            return self.process.wait(timeout)
        finally:
            self.process.kill()

    def wait_until(self, true, timeout=600):
        """Wait for something while the process lives; say whether it came."""
        deadline = time.monotonic() + timeout
        while not true():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.001)
        return True

    def wait_for_step(self, step):
        assert self.wait_until(lambda: self.steps_done() >= step), self.said()

    def steps_done(self):
        return len(read_metrics(self.directory)) if self.directory.exists() else 0


class Pipes:
    """Standard output and error as pipes, whose reader may go away."""

    def __init__(self, log):
        self._log = log
        self._cut = [threading.Event(), threading.Event()]
        ends = [os.pipe(), os.pipe()]
        self.writers = tuple(write for _, write in ends)
        for (read, _), cut in zip(ends, self._cut, strict=True):
            threading.Thread(target=self._copy, args=(read, cut), daemon=True).start()

    def started(self):
        """Close this process's copies of the ends that the other one writes to."""
        for writer in self.writers:
            os.close(writer)

    def cut(self, number):
        """Close the reader of standard output (0) or error (1)."""
        self._cut[number].set()
        time.sleep(0.1)

    def _copy(self, read, cut):
        with self._log.open("ab") as log:
            while not cut.is_set():
                if select.select([read], [], [], 0.02)[0]:
                    data = os.read(read, 65536)
                    if not data:
                        break
                    log.write(data)
                    log.flush()
        os.close(read)


def phases_of(run):
    """See what a process is doing: mostly one thing, but it saves beside others."""
    saving = {path.name for path in run.directory.glob("checkpoints/*.saving*")}
    if not _has_lock(run):
        done = (run.directory / "checkpoints" / str(run.steps)).exists()
        return {"report"} if done and "step" in run.said() else {"start-up"}
    if not ("resuming at step" in run.said() or "starting; " in run.said()):
        return {"compile"}
    phases = set()
    if saving:
        final = any(name.startswith(f"{run.steps}.") for name in saving)
        phases.add("final save" if final else "save")
    done = run.steps_done()
    evaluated = {line["step"] for line in read_evaluations(run.directory)}
    if done and done % run.evaluate_every == 0 and done not in evaluated:
        phases.add("evaluation")
    elif done < run.steps and not saving:
        phases.add("step")
    return phases or {"between"}


def _has_lock(run):
    try:
        owner = json.loads((run.directory / "lock").read_text())
    except (OSError, ValueError):
        return False
    return owner["process"] == run.process.pid


def freeze_in(phase, run, rng):
    """Freeze a process in a phase, as nearly as can be.

    Returns:
      The phases that it is in; None where it came to its end before.
    """
    if run.wait_until(lambda: phase in phases_of(run)):
        time.sleep(rng.uniform(0, PHASES[phase]))
        run.send(signal.SIGSTOP)
        if run.is_frozen():
            return phases_of(run)
    return None


def group_flags(processes, *, mesh):
    """Give the flags that each of several processes on this machine gets."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    common = [
        f"--hosts.coordinator=127.0.0.1:{port}",
        f"--hosts.processes={processes}",
        f"--hosts.wait={WAIT_SECONDS}",
        f"--mesh={mesh}",
    ]
    return [[*common, f"--hosts.index={index}"] for index in range(processes)]
