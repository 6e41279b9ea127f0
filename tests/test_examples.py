"""The programs in examples/: short, public names only, and each does what it says."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LONGEST = 60  # lines


def load(name):
    """Import an example; its `main` is not called by that."""
    spec = importlib.util.spec_from_file_location(
        name, ROOT / "examples" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_shown(path):
    assert len(path.read_text().splitlines()) < LONGEST
    pages = [page.read_text() for page in (ROOT / "docs").rglob("*.md")]
    assert any(f"examples/{path.name}\n" in text for text in pages), "no page shows it"


@pytest.mark.slow
def test_train_from_python(tmp_path, plain_report, capsys):
    run = load("train_from_python").main(str(tmp_path / "run"))
    assert run.is_finished and run.step == 40
    assert run.metrics["loss"][-1] < run.metrics["loss"][0] - 1
    assert (run.directory / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.count("loss 5.5") >= 1


@pytest.mark.slow
def test_own_loop():
    first, last = load("own_loop").main(steps=30)
    assert last < first - 1


def test_lost_layer(capsys):
    lost, dense = load("lost_layer").main()
    assert lost == 16 * (64 + 128) + 3 * 128 and dense == 64 * 128
    assert "logits: (2, 10)" in capsys.readouterr().out


def test_nnx_model():
    first, last = load("nnx_model").main(steps=30)
    assert last < first - 1


@pytest.mark.slow
def test_trajectory():
    assert load("trajectory").main(steps=100) < 0.15


def test_weighted_examples():
    equal, weighted = load("weighted_examples").main(steps=50)
    assert weighted < equal - 0.05


@pytest.mark.slow
def test_plan_from_python(capsys):
    lost, dense = load("plan_from_python").main()
    assert lost.memory.parameters < dense.memory.parameters
    assert "peak memory" in capsys.readouterr().out


def test_every_example_is_run():
    tested = {name.removeprefix("test_") for name in globals()}
    assert {path.stem for path in EXAMPLES} <= tested
