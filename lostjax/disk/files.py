"""Atomic file replacement: a reader sees all of the old bytes or all of the new."""

import os
import tempfile
from pathlib import Path

_TEMPORARY = ".partly"


def replace_file(path: str | Path, content: bytes) -> None:
    """Write `content` to `path` atomically, even if the program is killed meanwhile.

    The bytes are written to a temporary file beside `path`, flushed to the disk, and
    renamed to `path`. If writing fails, for example because the disk is full, the old
    file stays and the temporary file is removed.

    Args:
      path: the file; its directory must exist.
      content: the new bytes of the whole file.

    Raises:
      OSError: if the directory cannot be written or the disk is full.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=_TEMPORARY, dir=path.parent
    )
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            # Sync before the rename: otherwise a power cut can leave the new name with
            # no data.
            os.fsync(file.fileno())
        os.chmod(temporary, _permissions(path))
        # A rename within one file system is atomic; the temporary file is in the same
        # directory.
        os.replace(temporary, path)
    # BaseException: a KeyboardInterrupt must not leave the temporary file either.
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def keep_aside(path: Path) -> Path:
    """Copy a damaged file to `NAME.damaged`, so that another one may take its place.

    The file itself stays where it is until `replace_file` replaces it: a kill between
    the two loses nothing.

    Returns:
      The copy; `NAME.damaged-2` and so on if there are other copies already.

    Raises:
      OSError: if the file cannot be read or copied.
    """
    content = path.read_bytes()
    number, aside = 1, path.with_name(f"{path.name}.damaged")
    while aside.exists() and aside.read_bytes() != content:
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    replace_file(aside, content)
    return aside


def is_temporary(path: Path) -> bool:
    """Return whether a file was left behind by a `replace_file` that was killed."""
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY)


def _permissions(path: Path) -> int:
    # mkstemp creates files that only the owner can read. A replaced file keeps its
    # permissions; a new one gets those that the umask allows.
    if path.exists():
        return path.stat().st_mode & 0o777
    # The umask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
