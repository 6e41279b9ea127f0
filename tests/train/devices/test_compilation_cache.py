"""Where compiled programs are kept, and where they are not."""

import os
import subprocess
import sys

import jax
import pytest

from lostjax.train.devices import compilation_cache as program_cache
from lostjax.train.devices.compilation_cache import keep_programs, name_platform

AMD = "processor : 0\nvendor_id : AuthenticAMD\nflags : fpu avx2\n"


@pytest.fixture
def processors(tmp_path, monkeypatch):
    """The processor's description, as a file to write."""
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(program_cache, "_PROCESSORS", path)
    return path


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """JAX's settings as at a start, and a home of one's own."""
    before = jax.config.jax_compilation_cache_dir
    enabled = jax.config.jax_enable_compilation_cache
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", True)
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)
    jax.config.update("jax_enable_compilation_cache", enabled)


def test_processors_of_other_features_do_not_share(processors, monkeypatch):
    names = []
    for text in (AMD, AMD.replace("avx2", "avx2 avx512f"), AMD):
        processors.write_text(text)
        names.append(name_platform())
    assert names[0] == names[2] != names[1]
    monkeypatch.setattr(program_cache, "jaxlib_version", "0.0.1")
    assert name_platform() != names[0]


@pytest.mark.parametrize("text", ["vendor_id : GenuineIntel\nflags : fpu\n", "", None])
def test_without_a_safe_place_there_is_no_cache(processors, settings, text):
    if text is not None:
        processors.write_text(text)
    keep_programs()
    assert jax.config.jax_compilation_cache_dir is None


def test_it_lies_in_the_users_cache_and_settings_come_first(processors, settings):
    processors.write_text(AMD)
    jax.config.update("jax_enable_compilation_cache", False)
    keep_programs()
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_enable_compilation_cache", True)
    keep_programs()
    chosen = jax.config.jax_compilation_cache_dir
    assert chosen.startswith(f"{settings}/lostjax/programs/cpu-")
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    keep_programs()
    assert jax.config.jax_compilation_cache_dir == "elsewhere"


def test_a_second_process_finds_the_program_also_after_a_kill_and_says_nothing(
    tmp_path,
):
    if name_platform() is None:
        pytest.skip("no cache on this processor")
    script = (
        "import jax, logging\n"
        "from lostjax.train.devices.compilation_cache import keep_programs\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)\n"
        "keep_programs()\n"
        "hits = []\n"
        "jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))\n"
        "jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((8, 8)))\n"
        "print(hits.count('/jax/compilation_cache/cache_hits') > 0)\n"
    )
    unset = ("JAX_COMPILATION_CACHE_DIR",)
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    environment["XDG_CACHE_HOME"] = str(tmp_path)

    def start():
        return subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )

    said = [start(), start()]
    entries = list((tmp_path / "lostjax" / "programs").rglob("*-cache"))
    for number, entry in enumerate(entries):  # as a kill while writing leaves them
        content = entry.read_bytes()
        entry.write_bytes(b"" if number % 2 else content[: len(content) // 2])
    assert entries
    said += [start(), start()]
    assert [one.stdout for one in said] == ["False\n", "True\n"] * 2
    assert [one.stderr for one in said] == [""] * 4
    assert sorted(entries) == sorted(
        (tmp_path / "lostjax" / "programs").rglob("*-cache")
    )
