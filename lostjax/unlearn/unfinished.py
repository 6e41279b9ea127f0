"""Unfinished work: a directory beside the new run, until that is whole.

OUT.unlearning/settings.json    what decides the numbers: another one is refused
OUT.unlearning/history.json     what was measured at each check
OUT.unlearning/checkpoints/     states of the checks
OUT.unlearning/run/             the new run while it is written
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lostjax.disk.files import replace_file
from lostjax.disk.lock import hold_lock
from lostjax.errors import ConfigError
from lostjax.train.keep.directory import refusing_disk_errors

FOLDER = ".unlearning"
"""Is appended to the name of the new run while it is made."""


@contextmanager
def hold_work(out: Path, settings: Mapping[str, Any]) -> Iterator[Path]:
    """Make or continue the directory of unfinished work, and hold its lock.

    Raises:
      ConfigError: if it is of other settings, or cannot be written.
    """
    folder = out.with_name(out.name + FOLDER)
    text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
    with ExitStack() as stack:
        with refusing_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold_lock(folder))
            path = folder / "settings.json"
            if path.exists() and path.read_text(encoding="utf-8") != text:
                raise ConfigError(
                    f"{folder}: was begun with other flags, examples or another run; "
                    "repeat that command, delete the directory, or name another --out"
                )
            replace_file(path, text.encode())
        yield folder


def remove_work(folder: Path) -> None:
    """Delete the work of a finished run."""
    shutil.rmtree(folder, ignore_errors=True)
