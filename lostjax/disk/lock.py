"""A lock so that only one process at a time writes a run: the file `RUN/lock`.

The kernel locks the file (flock) and releases it when the process ends for any reason.
The file's content names the owner. It informs people, and it informs other hosts, whose
kernels may not see the lock. The content holds both the host name and the kernel's boot
id, because a restarted container has a new host name but the same kernel.

A person may remove the file while the run lives, although no message asks for that on
the same host. The directory is therefore locked, too, if its file system can do that;
network file systems mostly cannot.
"""

import errno
import fcntl
import json
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from lostjax.errors import ConfigError

LOCK = "lock"
"""Name of the lock file in the directory of a run."""


_BOOT = Path("/proc/sys/kernel/random/boot_id")
_CANNOT_LOCK = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


class Owner(NamedTuple):
    """The process that writes a run."""

    process: int
    host: str
    boot: str
    """Random id of the kernel's boot; empty if the system does not provide one."""


@contextmanager
def hold_lock(directory: Path) -> Iterator[None]:
    """Hold the lock of a run for the duration of a `with` block.

    A lock that a dead process of this host left behind is taken over. On a file system
    without locks a warning is printed and the run is not protected.

    Args:
      directory: directory of the run; must exist.

    Raises:
      ConfigError: if another process holds the lock, or the file names a process of
        another host, because this host cannot tell whether that process is alive.
      OSError: if the file cannot be created.
    """
    path = directory / LOCK
    handle = _lock(path)
    try:
        owner = _read_owner(handle)
        if owner is not None and not _is_of_this_host(owner):
            raise ConfigError(
                f"{directory}: process {owner.process} on {owner.host} writes this "
                "run or died while writing it; this host cannot tell which. If the "
                f"process is dead, remove {path} and start again"
            )
        folder = None
        try:
            folder = _lock_folder(directory)
            _write_owner(handle, _this_process())
            yield
        finally:
            if folder is not None:
                os.close(folder)
            # Remove the file while the kernel's lock is still held: afterwards it could
            # be another process's. A failure must not replace the run's own result; a
            # file that stays is not locked and does no harm on this host.
            with suppress(OSError):
                # Another run may have a lock here if this one's directory was renamed.
                is_own = _is_at(path, handle)
                if is_own:
                    path.unlink()
    finally:
        os.close(handle)


def drop_lock(directory: Path) -> None:
    """Remove this process's lock file right before an exit without cleanup.

    The file of another process is left alone. Errors are ignored.
    """
    with suppress(OSError):
        if holds_lock(directory):
            (directory / LOCK).unlink()


def holds_lock(directory: Path) -> bool:
    """Return whether the lock in a directory names this process.

    Args:
      directory: any path; without a lock that can be read the answer is False.
    """
    try:
        handle = _open(directory / LOCK, os.O_RDONLY)
    except (OSError, ConfigError):
        return False
    try:
        return _read_owner(handle) == _this_process()
    finally:
        os.close(handle)


def _lock(path: Path) -> int:
    """Open the lock file and lock it.

    Raises:
      ConfigError: if another process holds the lock.
    """
    while True:
        handle = _open(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _CANNOT_LOCK:
                said = (
                    f"{path}: its file system has no locks; do not start a second run"
                )
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
                f"{path.parent}: {who} is writing this run; wait for it or stop it"
            ) from None
        if _is_at(path, handle):
            return handle
        # The owner removed the file between open and flock: this handle locks a file
        # without a name, which protects nothing. Try again.
        os.close(handle)


def _lock_folder(directory: Path) -> int | None:
    """Lock a directory itself; None if its file system cannot do that.

    Raises:
      ConfigError: if another process holds it.
    """
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # no permission to read it
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno != errno.EWOULDBLOCK:
            return None
        raise ConfigError(
            f"{directory}: another process holds this directory, as a run does whose "
            f"{LOCK} was removed; wait for it or stop it"
        ) from None
    return handle


def _open(path: Path, flags: int) -> int:
    """Open the lock file itself, never a file that it leads to.

    Raises:
      ConfigError: if it is a link, or not a file.
    """
    # Without O_NONBLOCK, a pipe of that name would be waited for.
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise ConfigError(f"{path}: is not a lock file; remove it") from None
    found = os.fstat(handle)
    # A second name is a link, too: what is written here would be written there.
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(handle)
        raise ConfigError(f"{path}: is not a lock file; remove it")
    return handle


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _is_of_this_host(owner: Owner) -> bool:
    """Return whether the owner runs on this kernel, whose flock is then reliable."""
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
    """Read the owner from the file; None if there is none or the text was cut short."""
    try:
        # pread leaves the file offset alone: the handle is read and written at position
        # 0.
        values = json.loads(os.pread(handle, 4096, 0))
        process, host, boot = (values[name] for name in Owner._fields)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    # The values appear in messages of one line. `type`: True is an int to Python.
    if type(process) is not int or not (isinstance(host, str) and host.isprintable()):
        return None
    return Owner(process, host, boot) if isinstance(boot, str) else None


def _write_owner(handle: int, owner: Owner) -> None:
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(owner._asdict()).encode() + b"\n", 0)
    # Other hosts on a network file system read the owner from the disk, not from this
    # cache.
    os.fsync(handle)
