"""Make sure that a run can open as many files as its checkpoints need.

orbax meets a limit on open files in the middle of a save, with hundreds of tracebacks,
and threads that wait for each other for minutes.
"""

import os
import resource

from lostjax.errors import ConfigError

NEEDED = 64
"""Files that a save may open at once."""

LEAST = 2 * NEEDED
"""Smallest limit with which a run starts; it holds up to 30 files open all the time."""

_ENOUGH = 4096


def provide_open_files() -> None:
    """Raise this process's own limit on open files if it is low.

    Raises:
      ConfigError: if the system allows fewer than `LEAST`.
    """
    own, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        most = _ENOUGH
    if most < LEAST:
        raise ConfigError(
            f"ulimit -n is {most}: a run needs at least {LEAST} open files"
        )
    if own != resource.RLIM_INFINITY and own < min(most, _ENOUGH):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _ENOUGH), hard))


def check_open_files() -> None:
    """Check that a save can open its files now.

    Raises:
      OSError: if it cannot.
    """
    handles = []
    try:
        for _ in range(NEEDED):
            handles.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for handle in handles:
            os.close(handle)
