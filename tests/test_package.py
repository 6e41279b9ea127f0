"""The wheel and the sdist: built, checked, and installed without this tree."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = {".gz", ".md", ".css", ".html", ".typed"}
"""Endings of the files in the package that are no modules."""

WITHOUT_THE_TREE = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

pytestmark = pytest.mark.slow

USE = """
import lostjax
from lostjax import nn, optim
from lostjax.train.report.contents import Report
from lostjax.train.report.page import write_report

assert "site-packages" in lostjax.__file__, lostjax.__file__
optim.frugal()
write_report("page.html", Report("title", "command", {}, []))
"""

TYPED = """
from lostjax.optim import frugal, warmup_cosine_schedule

tx = frugal(1e-3, density=0.5)
"""


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Build an sdist from a copy of the tree, and a wheel from that sdist."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "lostjax", source / "lostjax", ignore=ignore)
    out = tmp_path_factory.mktemp("dist")
    # In the environment of the tests: an isolated one would need a network.
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source]
    subprocess.run(words, check=True, capture_output=True)
    return {path.suffix: path for path in out.iterdir()}


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory):
    """Install the wheel; returns the new environment's Python."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    words = [python, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    # With this tree on its path pip would take lostjax for installed.
    subprocess.run([*words, distributions[".whl"]], check=True, env=WITHOUT_THE_TREE)
    # What it depends on comes from here, without this tree: a path that a .pth file
    # adds has no .pth files of its own.
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "outside.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


def test_twine_has_nothing_to_say(distributions):
    words = [sys.executable, "-m", "twine", "check", "--strict"]
    done = subprocess.run(
        [*words, *distributions.values()], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == len(distributions) == 2


def test_the_wheel_has_every_module_and_every_other_file(distributions):
    with zipfile.ZipFile(distributions[".whl"]) as wheel:
        names = {name for name in wheel.namelist() if name.startswith("lostjax/")}
    there = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "lostjax").rglob("*")
        if path.suffix in DATA | {".py"}
    }
    assert names == there
    assert {"lostjax/py.typed", "lostjax/view/style.css"} < names


def test_the_wheel_describes_itself(distributions):
    with zipfile.ZipFile(distributions[".whl"]) as wheel:
        (name,) = [n for n in wheel.namelist() if n.endswith("dist-info/METADATA")]
        text = wheel.read(name).decode()
    core = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", text, flags=re.MULTILINE)
    assert core == ["jax", "flax", "optax", "jaxtyping", "numpy", "scipy"]
    for field in ("Project-URL", "Keywords", "Classifier: Typing :: Typed"):
        assert f"\n{field}" in text
    from lostjax import __version__

    assert f"\nVersion: {__version__}\n" in text


def run(words, folder):
    return subprocess.run(
        words, cwd=folder, env=WITHOUT_THE_TREE, capture_output=True, text=True
    )


def test_the_installed_wheel_works(installed, tmp_path):
    done = run([installed, "-c", USE], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "<style>" in (tmp_path / "page.html").read_text()
    done = run([installed, "-m", "lostjax.train", "--help"], tmp_path)
    assert "usage: python -m lostjax.train" in done.stdout


def test_a_users_program_passes_mypy_strict(installed, tmp_path):
    (tmp_path / "right.py").write_text(TYPED)
    (tmp_path / "wrong.py").write_text(TYPED.replace("0.5", "'half'"))
    words = [sys.executable, "-m", "mypy", "--strict", "right.py", "wrong.py"]
    words += ["--python-executable", installed, "--cache-dir", tmp_path / "cache"]
    said = run(words, tmp_path).stdout
    assert 'wrong.py:4: error: Argument "density" to "frugal" has incompatible' in said
    assert said.endswith("Found 1 error in 1 file (checked 2 source files)\n"), said
