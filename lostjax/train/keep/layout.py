"""Names in a run's directory, and the refusal of links under them.

A directory that somebody else made may hold symbolic links, pipes or devices where a
run writes or reads. A link would lead writes out of the directory, and a pipe would
make a reader wait forever. Other names in it belong to the user and are not looked at.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lostjax.disk.lock import LOCK
from lostjax.disk.seal import hash_file_of
from lostjax.errors import ConfigError
from lostjax.train.config.stored import CONFIG_FILE
from lostjax.train.log.json_lines import (
    EVALUATIONS_FILE,
    METRICS_FILE,
    STABILITY_FILE,
)
from lostjax.train.log.output import LOG_FILE
from lostjax.train.log.tensorboard import TENSORBOARD_FOLDER

CHECKPOINTS = "checkpoints"
"""The directory of a run's checkpoints."""

DATA_FILE = "data.json"
"""The identity of the text and its tokens."""

REPORT = "report.html"
"""The report; a run without it is not finished."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
"""The tokenizer has one of these names."""

COMMANDS_FILE = "commands.jsonl"
"""The commands that the run was started and resumed with."""

LINES_FILES = (METRICS_FILE, EVALUATIONS_FILE, STABILITY_FILE)
"""Files of chained lines."""

_TOKENIZERS = tuple(
    name for file in TOKENIZER_FILES for name in (file, hash_file_of(Path(file)).name)
)

DESCRIPTION = (CONFIG_FILE, DATA_FILE, *_TOKENIZERS, COMMANDS_FILE)
"""Files that do not change while a run steps."""

_FOLDERS = (CHECKPOINTS, TENSORBOARD_FOLDER, "profile")
_FILES = (
    *(LOCK, LOG_FILE, REPORT),
    "stopped.json",
    *LINES_FILES,
    *DESCRIPTION,
)


def refuse_links(directory: Path) -> None:
    """Refuse a run's directory that holds links out of it, or what is no file.

    Args:
      directory: an existing run's directory, which may be a link itself.

    Raises:
      ConfigError: if a name of the run's is a symbolic link, a pipe, a socket or a
        device; or if one of its folders holds such a thing, except for links to files
        of the run.
    """
    for path in (*_own_places(directory), *_inner_places(directory)):
        try:
            mode = path.lstat().st_mode
        except PermissionError:
            raise ConfigError(f"{directory}: no permission to read it") from None
        except OSError:  # most runs lack some names, and one that trains moves others
            continue
        if stat.S_ISLNK(mode):
            raise ConfigError(
                f"{path}: is a symbolic link; a run is never written through one: "
                "replace it by what it leads to, or link the run's whole directory"
            )
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise ConfigError(f"{path}: is neither a file nor a directory; remove it")


def _own_places(directory: Path) -> Iterator[Path]:
    for name in (*_FOLDERS, *_FILES, "wandb"):
        yield directory / name


def _inner_places(directory: Path) -> Iterator[Path]:
    """Yield what is in the folders, except for links that stay inside."""
    root = directory.resolve()
    for folder in _FOLDERS:
        for place, folders, files in os.walk(directory / folder):
            for name in (*folders, *files):
                path = Path(place) / name
                with suppress(OSError, RuntimeError):  # it leads to itself
                    target = path.resolve(strict=True)
                    if path.is_symlink() and target.is_relative_to(root):
                        continue
                yield path
