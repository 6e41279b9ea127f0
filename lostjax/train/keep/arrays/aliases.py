"""Open a directory under a second path that orbax cannot misread.

orbax looks for its own files with glob, so that `[`, `*` and `?` in the path of a run
make it write checkpoints that it cannot read. It also takes `/s3/runs` for a URL. On
Linux an open directory has the path `/proc/self/fd/NUMBER`, which has neither.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OPEN_FILES = Path("/proc/self/fd")
_MISREAD = re.compile(r"[][*?]|^/(gs|s3|az|hf)(/|$)")


@contextmanager
def open_alias(directory: Path) -> Iterator[Path]:
    """Yield a path of a directory for orbax, valid in this process during the block.

    Args:
      directory: an absolute path of a directory.

    Yields:
      The directory itself if orbax reads its path correctly.

    Raises:
      OSError: if the directory cannot be opened, or needs a second path and the
        operating system has none.
    """
    if not _MISREAD.search(str(directory)):
        yield directory
        return
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        alias = _OPEN_FILES / str(handle)
        if not alias.is_dir():
            raise OSError(
                errno.EINVAL,
                "checkpoints cannot be kept below a path with '[', ']', '*' or '?' on "
                "this system",
                str(directory),
            )
        yield alias
    finally:
        os.close(handle)
