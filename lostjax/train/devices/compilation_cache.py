"""Keep compiled programs on disk, so that later starts need not compile them again.

Programs are kept in JAX's persistent compilation cache, in `~/.cache/lostjax/programs`
(or under `$XDG_CACHE_HOME`). JAX's own settings take precedence:
JAX_COMPILATION_CACHE_DIR names another directory, and
JAX_ENABLE_COMPILATION_CACHE=false switches the cache off.

JAX writes an entry in place and never overwrites an existing one. After a kill in the
midst of a write it would warn about the torn entry, and compile the program again, at
every start. Entries that cannot be decompressed are therefore removed first.

A CPU's programs are machine code, which machines with a shared home directory must not
share: their cache directories are named by jaxlib's version and the processor's
features. On Intel processors there is no cache, because XLA takes its own cached
programs for those of another machine, logs long warnings at every start, and compiles
again (https://github.com/openxla/xla/issues/44565).
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
    """Switch the cache on, unless JAX's own settings decide.

    Call it after the platform is chosen, because it asks JAX for the devices, and
    before anything large is compiled.
    """
    chosen = getattr(jax.config, "jax_compilation_cache_dir", None)
    if chosen is not None or not getattr(jax.config, "jax_enable_compilation_cache", 1):
        return
    name = name_platform()
    if name is not None:
        place = default_cache_dir() / "programs" / name
        remove_torn(place)
        jax.config.update("jax_compilation_cache_dir", str(place))


def name_platform() -> str | None:
    """Return the name of the cache directory of this machine's programs.

    Returns:
      The same name on machines that can run each other's programs; None if programs
      should not be cached here.
    """
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


def remove_torn(place: Path) -> None:
    """Remove the entries of a cache's directory that JAX could not read."""
    # Threads, because reading and decompressing release the GIL.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(_remove_unless_whole, place.glob("*-cache")))


def _remove_unless_whole(entry: Path) -> None:
    """Remove an entry that JAX could not read."""
    try:
        # JAX's own function, though private: no public one reads an entry.
        decompress_executable(entry.read_bytes())
    except Exception:  # zlib's errors, or zstandard's if it is installed
        with contextlib.suppress(OSError):
            entry.unlink()
