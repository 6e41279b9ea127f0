"""Train on small disks of their own; prints what happened as JSON. See test_disk.py.

    unshare -m python small_disk.py EMPTY_DIRECTORY FLAGS...

Mounts what it needs in the namespace that it is started in, then starts itself anew
without root's right to write where nobody may.
"""

import contextlib
import ctypes
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

DISKS = {
    "full": "size=64k",
    "no-files": "size=64m,nr_inodes=2",
    "read-only": "size=64m,ro",
    "small": "size=24m",
}
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2


def mount_and_start_anew(place: Path) -> None:
    for name, options in DISKS.items():
        (place / name).mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place / name)]
        subprocess.run(command, check=True)
    for right in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, right, 0, 0, 0) == 0
    os.environ["DISKS_ARE_MOUNTED"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.argv])


FREE_SPACE = shutil.disk_usage


def fill(disk: Path, *, hidden: bool = False) -> None:
    """Leave no byte free; hidden, as a quota is, or in the open."""
    lie = type("Usage", (), {"free": 1 << 30})
    shutil.disk_usage = (lambda _: lie) if hidden else FREE_SPACE
    with (disk / "filler").open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass


def disturb(disk: Path) -> None:
    """Let the disk's troubles come and go right before certain saves."""
    from lostjax.train.keep.checkpoints import Checkpoints

    save, checkpoints = Checkpoints.save, disk / "run" / "checkpoints"
    before = {
        20: lambda: checkpoints.chmod(0o500),
        40: lambda: checkpoints.chmod(0o700),
        60: lambda: fill(disk),  # 20 lines of metrics take more than a page
        80: (disk / "filler").unlink,
        100: lambda: fill(disk, hidden=True),
        120: (disk / "filler").unlink,
        140: lambda: fill(disk),
    }

    def save_disturbed(self, state, *, step, also=None):
        self.wait()
        before[step]()
        save(self, state, step=step, also=also)

    Checkpoints.save = save_disturbed


def close(run: Path, mode: int) -> None:
    """Take rights to a run's own directory from it after its first save."""
    from lostjax.train.keep.checkpoints import Checkpoints

    save = Checkpoints.save

    def save_and_close(self, state, *, step, also=None):
        save(self, state, step=step, also=also)
        self.wait()
        run.chmod(mode)

    Checkpoints.save = save_and_close


def main(place: Path, words: list[str]) -> None:
    from lostjax.train.__main__ import main as train
    from lostjax.verify import main as verify

    def say(command, *arguments):
        with (
            contextlib.redirect_stderr(io.StringIO()) as err,
            contextlib.redirect_stdout(io.StringIO()) as out,
        ):
            code = command(arguments)
        return {"code": code, "err": err.getvalue(), "out": out.getvalue()}

    happened = {}
    for name in ("full", "no-files", "read-only"):
        happened[name] = say(train, f"--run-dir={place / name / 'run'}", *words)
        happened[name]["left"] = [str(path) for path in (place / name).rglob("*")]
    from lostjax.train.keep.checkpoints import (
        Checkpoints,  # not before `say` has stderr
    )

    save = Checkpoints.save
    run = place / "small" / "run"
    disturb(place / "small")
    happened["small"] = say(train, f"--run-dir={run}", *words)
    happened["verify"] = say(verify, str(run))
    lines = (run / "metrics.jsonl").read_text().splitlines()
    happened["steps"] = [json.loads(line)["step"] for line in lines]
    happened["checkpoints"] = sorted(p.name for p in (run / "checkpoints").iterdir())
    Checkpoints.save = save
    run = place / "closed"
    close(run, 0o500)
    happened["closed"] = say(train, f"--run-dir={run}", *words)
    run.chmod(0o700)
    happened["closed"]["left"] = sorted(path.name for path in run.iterdir())
    Checkpoints.save = save
    run_shut = place / "run-shut"
    close(run_shut, 0o000)
    happened["shut"] = say(train, f"--run-dir={run_shut}", *words)
    run_shut.chmod(0o700)
    lines = (run_shut / "metrics.jsonl").read_text().splitlines()
    kept = sorted(path.name for path in (run_shut / "checkpoints").iterdir())
    happened["shut"] |= {"steps": len(lines), "checkpoints": kept}
    Checkpoints.save = save
    happened["opened"] = say(train, f"--run-dir={run}", *words)
    happened["opened"]["left"] = sorted(path.name for path in run.iterdir())
    print(json.dumps(happened))


if __name__ == "__main__":
    if "DISKS_ARE_MOUNTED" not in os.environ:
        mount_and_start_anew(Path(sys.argv[1]))
    main(Path(sys.argv[1]), sys.argv[2:])
