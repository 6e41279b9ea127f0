"""The text that a run began on: `RUN/data.json`, sealed by a hash.

The file decides whether a resumed run sees the rows that it would have seen. A damaged
one is therefore never passed over. It is written again if its hash, or its text, proves
that the run began on the text of now.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from lostjax.disk.files import keep_aside, replace_file
from lostjax.disk.seal import SealError, read_sealed, seal, was_sealed_as
from lostjax.errors import ConfigError
from lostjax.train.config.stored import CONFIG_FILE
from lostjax.train.keep.layout import CHECKPOINTS, DATA_FILE
from lostjax.train.keep.step_directories import list_bare_steps, list_steps

ADOPTED = {"adopted": True}
"""Content of a file that accepts any text once; see `python -m lostjax.verify`."""


def check_same_data(directory: Path, identity: Mapping[str, int | str]) -> None:
    """Refuse to resume a run with other text or tokens than those it began with.

    Args:
      directory: the run's directory; it may not exist yet.
      identity: `Data.identity` of the text now.

    Raises:
      ConfigError: if the text or its tokens differ, with the differences; or if the
        file is missing or damaged, so that nothing tells.
    """
    path = directory / DATA_FILE
    try:
        stored = read_sealed(path)
        if not stored.is_sealed and _is_sealed(directory):
            raise SealError("was edited: its hash is missing")
    except FileNotFoundError:
        # A new run, one that was killed while it began, or one of an earlier version.
        if _is_sealed(directory) and _has_checkpoints(directory):
            raise ConfigError(_untold(path, "is missing")) from None
        return
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except SealError as error:
        if was_sealed_as(path.read_bytes(), identity):
            return  # `write_identity` makes it again
        raise ConfigError(_untold(path, str(error))) from None
    if stored.values == ADOPTED:
        return
    _compare(directory, stored.values, identity)


def write_identity(directory: Path, identity: Mapping[str, int | str]) -> None:
    """Write the file if it is missing, damaged or adopted; `check_same_data` passed.

    Raises:
      OSError: if it cannot be written.
    """
    path = directory / DATA_FILE
    try:
        if read_sealed(path).values != ADOPTED:
            return
        print(f"{path}: vouches from now on for the text as it is", file=sys.stderr)
    except FileNotFoundError:
        pass
    except SealError as error:
        aside = keep_aside(path)
        print(f"{path}: {error}: kept as {aside}, written again", file=sys.stderr)
    replace_file(path, seal(identity))


def _compare(
    directory: Path, stored: object, identity: Mapping[str, int | str]
) -> None:
    if not isinstance(stored, dict) or not set(identity) <= set(stored):
        raise ConfigError(_untold(directory / DATA_FILE, "is damaged"))
    differences = [
        f"{name}: {_shown(stored[name])} there, {value} now"
        for name, value in identity.items()
        if stored[name] != value
    ]
    if differences:
        raise ConfigError(
            f"--run-dir={directory}: holds a run on other data "
            f"({'; '.join(differences)}); use that data, or name another directory; a "
            f"new run on this text with its model: --init-from={directory}"
        )


def _shown(value: object) -> str:
    text = str(value)[:40]
    return text if text.isprintable() else ascii(text)  # in one line


def _untold(path: Path, what: str) -> str:
    return (
        f"{path}: {what}, so that nothing tells which text the run began on; restore "
        f"the file, or, if the text is surely as it was, remove it and run "
        f"python -m lostjax.verify {path.parent} --adopt"
    )


def _is_sealed(directory: Path) -> bool:
    """Return whether the run is one whose files have hashes."""
    try:
        return read_sealed(directory / CONFIG_FILE).is_sealed
    except FileNotFoundError:
        return False
    except (OSError, SealError):
        return True


def _has_checkpoints(directory: Path) -> bool:
    place = directory / CHECKPOINTS
    return bool(list_steps(place) or list_bare_steps(place))
