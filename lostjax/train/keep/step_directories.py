"""List, commit and delete the step directories in a run's `checkpoints/`.

    20/                 committed: written, hashed and synced, with a manifest
    30.saving...        a save under way, or the files that a killed one left
    10.deleting         an old checkpoint that is being deleted
    20.damaged          set aside by a run that fell back to an older one; never deleted
    20/ without manifest.json: not committed; of an earlier version, or damaged

One rename gives a checkpoint its number, after its manifest is on the disk, and one
rename takes it away, before its files are deleted. A directory with a number is
therefore never half a checkpoint.
"""

import errno
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lostjax.disk.manifest import (
    MANIFEST,
    ManifestError,
    find_damage,
    read_manifest,
    sync,
    write_manifest,
)
from lostjax.view.numbers import format_bytes

_JOINED = "manifest.ocdbt"
"""orbax's list of the arrays of all processes."""


def step_dir(directory: Path, step: int) -> Path:
    """Return the directory of a committed step."""
    return directory / str(step)


def saving_dir(directory: Path, step: int) -> Path:
    """Return the directory in which a step is written before it is committed."""
    return directory / f"{step}.saving"


def list_steps(directory: Path) -> list[int]:
    """List the committed steps in order; a missing directory has none."""
    return [s for s in _numbered(directory) if _has_manifest(directory, s)]


def list_bare_steps(directory: Path) -> list[int]:
    """List the steps without a manifest in order; they are not committed."""
    return [s for s in _numbered(directory) if not _has_manifest(directory, s)]


def list_set_aside(directory: Path) -> list[Path]:
    """List the directories that were set aside, sorted by name."""
    return sorted(directory.glob("*.damaged*"))


def check_room(directory: Path, *, needed: int) -> None:
    """Refuse a save that the disk has no room for.

    Args:
      directory: the directory of checkpoints; made if it is missing.
      needed: bytes of the save.

    Raises:
      OSError: if the directory cannot be written or its disk has too little room.
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


def count_saved_bytes(saving: Path) -> int:
    """Count the bytes written so far of a save under way.

    Args:
      saving: its `saving_dir`; orbax writes beside it, under a longer name.
    """
    count = 0
    for place in saving.parent.glob(f"{saving.name}*"):
        for folder, _, names in os.walk(place):
            for name in names:
                with suppress(OSError):  # it was renamed meanwhile
                    count += os.stat(os.path.join(folder, name)).st_size
    return count


def find_step_damage(step: Path, *, items: Sequence[str] = ()) -> list[str]:
    """Find what keeps a step from being read: damaged files, and files never written.

    Args:
      step: the directory of a committed step.
      items: names of subdirectories to check; all if empty.

    Returns:
      One line for each file, see `disk.manifest.find_damage`; empty if it is whole.
    """
    damage = find_damage(step, items=items)
    if damage:
        return damage
    # orbax writes a part per process and joins them last; an earlier version committed
    # checkpoints that were never joined, and cannot be read.
    try:
        listed = read_manifest(step)
    except ManifestError as error:  # the run has deleted it meanwhile
        return [str(error)]
    parts = {name.split("/")[0] for name in listed if "/ocdbt.process_" in name}
    return [
        f"{part}/{_JOINED}: was never written"
        for part in sorted(parts)
        if f"{part}/{_JOINED}" not in listed and (not items or part in items)
    ]


def commit(directory: Path, step: int) -> None:
    """Commit the files in `saving_dir` as a checkpoint.

    Raises:
      OSError: if they cannot be hashed, synced or renamed; the step is not committed
        then.
    """
    saved = saving_dir(directory, step)
    # The order survives a power cut: files and manifest are synced before the rename,
    # and the directory after it, because a rename is durable only with its parent.
    write_manifest(saved)
    saved.rename(step_dir(directory, step))
    sync(directory)


def retain(directory: Path, *, keep: int, also: int | None = None) -> None:
    """Delete all committed steps except the newest; nothing else is deleted.

    Args:
      directory: the directory of checkpoints.
      keep: number of newest steps to keep, at least 1.
      also: one more step to keep.

    Raises:
      OSError: if a step cannot be deleted.
    """
    assert keep >= 1
    for step in list_steps(directory)[:-keep]:
        if step != also:
            _delete(directory, step)


def delete_after(directory: Path, step: int) -> None:
    """Delete the committed steps after a step, the newest first.

    Raises:
      OSError: if a step cannot be deleted.
    """
    for later in reversed(list_steps(directory)):
        if later > step:
            _delete(directory, later)


def set_aside(directory: Path, step: int) -> Path:
    """Rename a step's directory, so that it no longer counts, and keep its files.

    Returns:
      The new directory.

    Raises:
      OSError: if it cannot be renamed, nor moved file by file.
    """
    number, place = 1, directory / f"{step}.damaged"
    while place.exists():
        number += 1
        place = directory / f"{step}.damaged-{number}"
    _move(step_dir(directory, step), place)
    sync(directory)
    return place


def remove_leftovers(directory: Path) -> None:
    """Delete the files that killed or failed saves and deletions left, if possible."""
    with suppress(OSError):
        for pattern in ("*.saving*", "*.deleting", "*.orbax-checkpoint-tmp*"):
            for left in directory.glob(pattern):
                shutil.rmtree(left, ignore_errors=True)


def _delete(directory: Path, step: int) -> None:
    gone = directory / f"{step}.deleting"
    # Renamed first, so that a kill while files are deleted leaves no half checkpoint.
    _move(step_dir(directory, step), gone)
    shutil.rmtree(gone)


def _move(source: Path, target: Path) -> None:
    """Rename a directory, or move its files where the file system cannot rename it."""
    try:
        source.rename(target)
    except OSError as error:
        # An overlay cannot rename a directory of an image's lower layer, but can rename
        # its files.
        if error.errno != errno.EXDEV:
            raise
        shutil.copytree(source, target, symlinks=True, copy_function=shutil.move)
        shutil.rmtree(source)


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
