"""Compiled programs are kept on disk: the next start compiles nothing anew.

JAX's persistent compilation cache, in `~/.cache/lostjax/programs` (or under
`$XDG_CACHE_HOME`). JAX's own settings come first: JAX_COMPILATION_CACHE_DIR names
another place, JAX_ENABLE_COMPILATION_CACHE=false is without it.

JAX writes an entry in place and never over one that is there: what a process that was
killed left of one would be warned of, and compiled again, at every start. So those that
cannot be unpacked are removed first.

A CPU's programs are machine code, so that machines which share a home must not share
them: they lie apart, by jaxlib's version and the processor's features. For Intel's
processors there is no cache: XLA writes programs for them that it then takes for
another machine's, says so at length at every start, and compiles again
(https://github.com/openxla/xla/issues/44565).
"""

import contextlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
from jax._src.compilation_cache import decompress_executable
from jaxlib.version import __version__ as jaxlib_version

from lostjax.data.cache import default_cache_dir, hash_parts

_PROCESSORS = Path("/proc/cpuinfo")


def keep_programs() -> None:
    """Turn the cache on, where JAX's settings do not say otherwise.

    To be called once the platform is settled, before anything large is compiled.
    """
    chosen = getattr(jax.config, "jax_compilation_cache_dir", None)
    if chosen is not None or not getattr(jax.config, "jax_enable_compilation_cache", 1):
        return
    name = name_platform()
    if name is not None:
        place = default_cache_dir() / "programs" / name
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            list(pool.map(_remove_unless_whole, place.glob("*-cache")))
        jax.config.update("jax_compilation_cache_dir", str(place))


def _remove_unless_whole(entry: Path) -> None:
    """Remove an entry that JAX could not read: it has no public name for reading."""
    try:
        decompress_executable(entry.read_bytes())
    except Exception:  # zlib's, or zstd's where that is installed
        with contextlib.suppress(OSError):
            entry.unlink()


def name_platform() -> str | None:
    """Name whose programs may lie together, as a directory; None where none should."""
    platform = jax.devices()[0].platform
    if platform != "cpu":
        return str(platform)
    try:
        text = _PROCESSORS.read_text()
    except OSError:  # not Linux
        return None
    if "GenuineIntel" in text:
        return None
    features = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, flags=re.MULTILINE)
    if features is None:
        return None
    return f"cpu-{hash_parts(jaxlib_version, features[1])[:16]}"
