"""One process at a time writes a run: `RUN/lock` names it while it does.

The file is locked by the kernel (flock), which lets go of it when the process ends,
however it ends; what stands in the file is for people, and for other hosts, whose
kernels may not know of the lock. A container that was started anew has another name,
but its kernel is the same: both are in the file.
"""

import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from lostjax.errors import ConfigError

LOCK = "lock"
"""The lock's name in a run's directory."""


_BOOT = Path("/proc/sys/kernel/random/boot_id")
_CANNOT_LOCK = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


class Owner(NamedTuple):
    """Who writes a run."""

    process: int
    host: str
    boot: str
    """What the kernel drew when it started; empty where it tells nobody."""


@contextmanager
def hold_lock(directory: Path) -> Iterator[None]:
    """Be the only process that writes a run, for a `with` block.

    A lock that a dead process of this host left is taken over. On a file system without
    locks that is said, and nothing guards the run.

    Args:
      directory: of the run; it exists.

    Raises:
      ConfigError: where another process has the lock, or one of another host had it
        when it was last seen: whether that one is alive cannot be known from here.
      OSError: where the file cannot be made.
    """
    path = directory / LOCK
    handle = _lock(path)
    try:
        owner = _read_owner(handle)
        if owner is not None and not _is_of_this_host(owner):
            raise ConfigError(
                f"{directory}: process {owner.process} on {owner.host} writes this "
                "run, or died doing so, which cannot be seen from this host; if it is "
                f"dead, remove {path} and start again"
            )
        try:
            _write_owner(handle, _this_process())
            yield
        finally:
            # Before the kernel's lock is let go. Where the directory cannot be written
            # any more the file stays: nobody holds it, and how a run ends is its own.
            with suppress(OSError):
                path.unlink()
    finally:
        os.close(handle)


def drop_lock(directory: Path) -> None:
    """Remove this process's lock of a run right before it leaves without tidying up.

    Another process's stays, and so does one that cannot be removed.
    """
    with suppress(OSError):
        handle = os.open(directory / LOCK, os.O_RDONLY)
        is_own = _read_owner(handle) == _this_process()
        os.close(handle)
        if is_own:
            (directory / LOCK).unlink()


def _lock(path: Path) -> int:
    """Open the file and lock it; refuse where another process has it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _CANNOT_LOCK:
                said = f"{path}: its file system has no locks; start no second run here"
                print(said, file=sys.stderr)
                return handle
            owner = _read_owner(handle)
            os.close(handle)
            if error.errno != errno.EWOULDBLOCK:
                raise
            who = "another process"
            if owner is not None:
                who = f"process {owner.process} on {owner.host}"
            raise ConfigError(
                f"{path.parent}: {who} is writing this run; wait for it, or stop it"
            ) from None
        if _is_at(path, handle):
            return handle
        os.close(handle)  # its owner removed it while it was opened here


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _is_of_this_host(owner: Owner) -> bool:
    """Say whether this kernel would know if the owner was alive: it locks for it."""
    same_kernel = owner.boot != "" and owner.boot == _boot()
    return owner.host == socket.gethostname() or same_kernel


def _this_process() -> Owner:
    return Owner(os.getpid(), socket.gethostname(), _boot())


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _read_owner(handle: int) -> Owner | None:
    """Read who is named; None where nobody is, or the writing was cut short."""
    try:
        values = json.loads(os.pread(handle, 4096, 0))
        return Owner(int(values["process"]), str(values["host"]), str(values["boot"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _write_owner(handle: int, owner: Owner) -> None:
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(owner._asdict()).encode() + b"\n", 0)
    os.fsync(handle)
