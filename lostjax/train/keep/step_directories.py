"""Which directories of a run's `checkpoints/` are checkpoints, and how they become it.

    20/                 committed: written, hashed, on the disk; its manifest is there
    30.saving...        a save under way, or what a killed one left
    10.deleting         an old checkpoint on its way out
    20.damaged          set aside by a run that went on from an older one; never deleted
    20/ without manifest.json: not committed, of an earlier version or damaged

A checkpoint gets its number in one rename, after its manifest is on the disk, and
loses it in one rename before its files go: no number stands for half a checkpoint.
"""

import errno
import os
import shutil
from pathlib import Path

from lostjax.disk.manifest import MANIFEST, sync, write_manifest
from lostjax.view.numbers import format_bytes


def step_dir(directory: Path, step: int) -> Path:
    """Give the place of a committed step."""
    return directory / str(step)


def saving_dir(directory: Path, step: int) -> Path:
    """Give the place where a step is written before it is committed."""
    return directory / f"{step}.saving"


def list_steps(directory: Path) -> list[int]:
    """List the committed steps in order; a directory that is not there has none."""
    return [s for s in _numbered(directory) if _has_manifest(directory, s)]


def list_bare_steps(directory: Path) -> list[int]:
    """List the steps without a manifest, which are not committed, in order."""
    return [s for s in _numbered(directory) if not _has_manifest(directory, s)]


def list_set_aside(directory: Path) -> list[Path]:
    """List what was set aside, by name."""
    return sorted(directory.glob("*.damaged*"))


def check_room(directory: Path, *, needed: int) -> None:
    """Refuse to begin a save that cannot be finished.

    Args:
      directory: of checkpoints; made where it is missing.
      needed: bytes.

    Raises:
      OSError: where it cannot be written or its disk has less room.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{os.strerror(errno.ENOSPC)}: {format_bytes(free)} of "
            f"{format_bytes(needed)}",
        )


def commit(directory: Path, step: int) -> None:
    """Make a checkpoint of what was written to `saving_dir`.

    Raises:
      OSError: where it cannot be hashed, forced to the disk or renamed; the step is
        not committed then.
    """
    saved = saving_dir(directory, step)
    write_manifest(saved)
    saved.rename(step_dir(directory, step))
    sync(directory)


def retain(directory: Path, *, keep: int, also: int | None = None) -> None:
    """Delete all but the newest committed steps; what is not committed stays.

    Args:
      directory: of checkpoints.
      keep: how many to keep, at least 1.
      also: a step that stays beside them.

    Raises:
      OSError: where one cannot be deleted.
    """
    assert keep >= 1
    for step in list_steps(directory)[:-keep]:
        if step != also:
            _delete(directory, step)


def delete_after(directory: Path, step: int) -> None:
    """Delete the committed steps after one, the last one first.

    Raises:
      OSError: where one cannot be deleted.
    """
    for later in reversed(list_steps(directory)):
        if later > step:
            _delete(directory, later)


def set_aside(directory: Path, step: int) -> Path:
    """Rename a step so that it is no checkpoint any more, and keep its files.

    Returns:
      Its new place.
    """
    number, place = 1, directory / f"{step}.damaged"
    while place.exists():
        number += 1
        place = directory / f"{step}.damaged-{number}"
    step_dir(directory, step).rename(place)
    sync(directory)
    return place


def remove_leftovers(directory: Path) -> None:
    """Delete what killed or failed saves and deletions left behind."""
    for pattern in ("*.saving*", "*.deleting", "*.orbax-checkpoint-tmp*"):
        for left in directory.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


def _delete(directory: Path, step: int) -> None:
    gone = directory / f"{step}.deleting"
    step_dir(directory, step).rename(gone)
    shutil.rmtree(gone)


def _numbered(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    return sorted(
        int(path.name)
        for path in directory.iterdir()
        if path.name.isdecimal() and str(int(path.name)) == path.name and path.is_dir()
    )


def _has_manifest(directory: Path, step: int) -> bool:
    return (step_dir(directory, step) / MANIFEST).is_file()
