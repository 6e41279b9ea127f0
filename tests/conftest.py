"""One process, eight CPU devices, no network: what every test may rely on."""

import dataclasses
import functools
import gc
import importlib.util
import itertools
import math
import os
import re
import sys
import threading
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from jaxlib.version import __version_info__

sys.path.insert(0, str(Path(__file__).parent))
from kept_programs import find_place, tidy

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and run little: XLA's expensive passes cost three times the time,
# and its newer code generator for fused loops twice. Later versions, and the compilers
# of TPUs, end the process for a flag that they do not know.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
) + (
    " --xla_cpu_use_fusion_emitters=false"
    if __version_info__ < (0, 11) and importlib.util.find_spec("libtpu") is None
    else ""
)
# Eight devices wait for each other on this pool; with fewer threads some wait for ever.
os.environ["NPROC"] = "16"
# What the tests and the processes that they start compile, each program once.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(find_place())
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import jaxtyping
import pytest
from jax._src.interpreters import mlir

jax.config.update("jax_num_cpu_devices", 8)
jax.devices()  # made now: a run on one device that came first would make only one


def share_contexts(make: Callable[[], Any], *, uses: int = 100) -> Callable[[], Any]:
    """Make a context of MLIR for many programs of a thread instead of for each one.

    To load all dialects into it takes a fifth of the time in which a small program is
    compiled. Newer versions of JAX share them as well.
    """
    count = itertools.count()

    @functools.lru_cache(maxsize=4)
    def shared(thread: int, number: int) -> Any:
        return make()

    return lambda: shared(threading.get_ident(), next(count) // uses)


if __version_info__ < (0, 11):
    mlir.make_ir_context = share_contexts(mlir.make_ir_context)

_check = jaxtyping.jaxtyped


def _check_outer(*, typechecker: Any) -> Callable[[Any], Any]:
    """Check the types of functions and classes of modules, not of those inside them.

    A function inside of another is made, and so checked, anew at every call of that
    one: milliseconds each, a quarter of the time of a run.
    """
    check = _check(typechecker=typechecker)
    return lambda made: made if "<locals>" in made.__qualname__ else check(made)


jaxtyping.jaxtyped = _check_outer


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Of the tests for the newest jax take the first case each: one row a table."""
    if "newest" not in config.option.markexpr:
        return
    seen = set()
    for item in list(items):
        test = item.nodeid.partition("[")[0]
        if test in seen:
            items.remove(item)
        seen.add(test)


def pytest_collection_finish() -> None:
    """Collect garbage rarely, and never look through what was imported.

    Tracing makes so many objects that the collector takes a tenth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def pytest_sessionstart() -> None:
    """Look through the kept programs once, not in every process of the session."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        tidy(find_place())


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


@pytest.fixture
def plain_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what a report of a run in this process traces and compiles."""
    from lostjax.train.report import gather
    from lostjax.train.report.contents import Sample

    monkeypatch.setattr(gather, "draw_sample", lambda job, state: Sample("", ""))
    monkeypatch.setattr(gather, "build_ledger", lambda job, compiled: ())


@pytest.fixture(scope="session")
def compiled_steps() -> dict[Any, Any]:
    """Training and evaluation programs, by what they were compiled for."""
    return {}


@pytest.fixture
def compile_once(
    monkeypatch: pytest.MonkeyPatch, compiled_steps: dict[Any, Any]
) -> None:
    """Share the programs of runs in this process that differ in their files alone."""
    from lostjax.train import session

    compile_steps = session.compile_steps

    def compile_once(job: Any, state: Any) -> Any:
        key = dataclasses.replace(
            job.config, run_dir=None, keep=1, checkpoint_every=0, eval_every=0
        )
        if key not in compiled_steps:
            compiled_steps[key] = compile_steps(job, state)
        return compiled_steps[key]

    monkeypatch.setattr(session, "compile_steps", compile_once)


class Page(HTMLParser):
    """Parses strictly: every element closed in order, every id once."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in {"meta", "br", "hr"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def labels(self) -> list[str]:
        """What the drawings are said to show."""
        return [a["aria-label"] for tag, a in self.tags if tag == "svg"]

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture
def read_page() -> Callable[[str], Page]:
    """Parse a whole page, or a part of one, that must need nothing else."""

    def read(text: str) -> Page:
        page = Page(text)
        barred = {"script", "link", "iframe", "img", "object", "base", "image"}
        for tag, attributes in page.tags:
            assert tag not in barred
            for name, value in attributes.items():
                assert name not in {"src", "srcset", "data"}
                assert not name.startswith("on")
                if name in {"href", "xlink:href"}:
                    assert value.startswith("#") and value[1:] in page.ids
        for target in re.findall(r"url\(([^)]*)", text):
            assert target.startswith("#") and target[1:] in page.ids
        assert "@import" not in text and "http:" not in text and "https:" not in text
        assert len(page.ids) == len(set(page.ids))
        assert len(text.encode()) < 1_500_000
        return page

    return read


@pytest.fixture(scope="session")
def start() -> Any:
    """Start a model over 32 tokens with SGD on one device: (model, tx, state)."""
    import optax

    from lostjax.train.build.model import build_model
    from lostjax.train.build.state import init_state
    from lostjax.train.devices.mesh import make_mesh

    @functools.cache
    def begin(config: Any, *, rate: float, seed: int = 0) -> Any:
        model = build_model(config, vocab_size=32)
        tx = optax.sgd(rate)
        key = jax.random.key(seed)
        return model, tx, init_state(model, tx, mesh=make_mesh("data:1"), key=key)

    return begin
