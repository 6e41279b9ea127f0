"""Compiled programs that outlive the tests: a second run compiles what has changed.

They lie in the environment that made them, by version of jaxlib and features of the
processor, because a CPU's programs are machine code; `make clean` removes them.
"""

import hashlib
import re
import shutil
import sys
from pathlib import Path

from jaxlib.version import __version__

LARGEST = 10**9
"""Bytes, after which all are made again: entries of old programs are never removed."""


def find_place(root: Path = Path(sys.prefix)) -> Path:
    """Find the directory of programs that this environment compiled on this machine."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        text = ""
    features = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, flags=re.MULTILINE)
    words = f"{__version__} {features[1] if features else ''}"
    return root / "programs" / hashlib.sha256(words.encode()).hexdigest()[:16]


def tidy(place: Path, *, largest: int = LARGEST) -> None:
    """Remove entries that a killed process tore, and all if they take too much."""
    from lostjax.train.devices.compilation_cache import remove_torn

    place.mkdir(parents=True, exist_ok=True)
    if sum(path.stat().st_size for path in place.glob("*-cache")) > largest:
        shutil.rmtree(place)
        place.mkdir()
    remove_torn(place)
