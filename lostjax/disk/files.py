"""Writing a file so that a reader sees all of the new text or all of the old."""

import os
import tempfile
from pathlib import Path

_TEMPORARY = ".partly"


def replace_file(path: str | Path, content: bytes) -> None:
    """Write `content` to `path` in one step, whatever stops the program meanwhile.

    The bytes go to a temporary file beside `path`, reach the disk, and take the name
    in one rename. If writing fails (a full disk) the old file stays and no temporary
    file is left.

    Args:
        path: The file; its folder exists.
        content: All of its new bytes.

    Raises:
        OSError: If the folder cannot be written or the disk is full.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=_TEMPORARY, dir=path.parent
    )
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _permissions(path))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def is_temporary(path: Path) -> bool:
    """Say whether a file is one that a killed `replace_file` left behind."""
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY)


def _permissions(path: Path) -> int:
    # mkstemp makes files that only their owner reads; a report is for everyone whom
    # the umask allows, and a replaced file keeps what it had.
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
