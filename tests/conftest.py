"""One process, eight CPU devices, no network: what every test may rely on."""

import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and run little: XLA's expensive passes cost three times the time,
# and its newer code generator for fused loops twice.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false"
)
# Eight devices wait for each other on this pool; with fewer threads some wait for ever.
os.environ["NPROC"] = "16"
# What several tests and the processes that they start compile, such as resumed runs;
# nothing outlives the session.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="programs-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.devices()  # made now: a run on one device that came first would make only one


def pytest_sessionfinish() -> None:
    """Remove what was compiled."""
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of tokenizers and packed rows for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 kB of real English prose: the licence's text, several times."""
    licence = (Path(__file__).parents[1] / "LICENSE").read_text()
    path = tmp_path_factory.mktemp("text") / "licence.txt"
    path.write_text("\n\n".join([licence] * 4))
    return path


@pytest.fixture
def fake_training(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let cells train for nothing; gives the list of configurations trained so far.

    What they come to is a bowl over the logarithm of the learning rate.
    """
    from lostjax.sweep import cells
    from lostjax.train.trial import Trial

    trained = []

    def start(best: float = 4e-3, diverges: float = math.inf) -> list[Any]:
        def trial(config: Any) -> Trial:
            trained.append(config)
            rate = config.optim.learning_rate
            value = 2.0 + math.log2(rate / best) ** 2 + 0.001 * config.seed
            value = math.nan if rate >= diverges else value
            evaluation = type("E", (), {"loss": value, "bits_per_byte": value / 2})()
            return Trial([3.0, value], evaluation, 100)

        monkeypatch.setattr(cells, "run_trial", trial)
        return trained

    return start
