"""Read directories from a command line, and refuse those that cannot hold files.

Paths that an operating system or a library refuses late, or never ends with, are
refused early: a run must not train for days and then find no place for its state.
"""

import re
import unicodedata
from pathlib import Path

from lostjax.errors import ConfigError

LONGEST_NAME = 255
"""Bytes of the longest name of a file on common file systems."""

LONGEST_PATH = 4095
"""Bytes of the longest path that Linux opens (PATH_MAX without its NUL)."""

ROOM_BELOW = 320
"""Bytes that must remain for the files in a directory: a checkpoint's longest path has
200, the name of TensorBoard's files up to 110."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""What URLs begin with, as the first part of a path."""


def read_path(text: str, *, flag: str) -> Path:
    """Read a path from a command line: expand `~`, and check it.

    Args:
      text: the path, absolute or relative; it need not exist.
      flag: its flag, for the message.

    Returns:
      The path; relative if `text` is.

    Raises:
      ConfigError: see `check_path`; also for the `~name` of a user that does not exist.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # no such user
        user = text.split("/")[0]
        raise ConfigError(
            f"{flag}={_show(text)}: {_show(user)} is nobody's home directory; write "
            f"./{_show(user)} for a directory of that name"
        ) from None
    check_path(path, flag=flag)
    return path


def check_path(path: Path, *, flag: str) -> None:
    """Refuse a path that cannot be a directory of files; nothing is read or written.

    Args:
      path: the path, absolute or relative.
      flag: its flag, for the message.

    Raises:
      ConfigError: if the path is a URL; if with its parents it contains a control
        character, is not UTF-8, is too long, or has a part that is too long.
    """
    try:
        whole = str(path.absolute())
    except FileNotFoundError:
        raise ConfigError(
            f"{flag}={_show(str(path))}: the working directory does not exist any more"
        ) from None
    shown = f"{flag}={_show(str(path))}"
    if len(path.parts) > 1 and _SCHEME.fullmatch(path.parts[0]):
        url = str(path).replace(":/", "://", 1)  # Path removes one of two slashes
        raise ConfigError(
            f"{flag}={_show(url)}: a URL; only directories of this machine's file "
            "systems can be used, such as a mounted bucket"
        )
    # A NUL ends paths; line feeds and escapes would forge lines of logs.
    if any(map(_is_control, whole)):
        raise ConfigError(f"{shown}: the path contains a control character")
    try:
        size = len(whole.encode())
    except UnicodeEncodeError:  # Python keeps other bytes as lone surrogates
        raise ConfigError(f"{shown}: the path is not UTF-8 text") from None
    if any(len(part.encode()) > LONGEST_NAME for part in path.parts):
        raise ConfigError(f"{shown}: a name has more than {LONGEST_NAME} bytes")
    if size > LONGEST_PATH - ROOM_BELOW:
        raise ConfigError(
            f"{shown}: the path has {size} bytes; at most {LONGEST_PATH - ROOM_BELOW} "
            "leave room for the files below it"
        )


def _show(text: str) -> str:
    """Format a path for a message of one line and bounded length."""
    shown = text.encode("utf-8", "backslashreplace").decode()
    shown = "".join(repr(c)[1:-1] if _is_control(c) else c for c in shown)
    return shown if len(shown) <= 100 else f"{shown[:60]}...{shown[-20:]}"


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) == "Cc"
