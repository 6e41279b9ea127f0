"""The library works with its core dependencies; programs say which extra they need."""

import importlib.metadata
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from lostjax.__main__ import PROGRAMS
from lostjax.extras import TRAIN

ROOT = Path(__file__).parents[1]

CORE = ("nn", "losses", "metrics", "optim", "steps", "analysis", "view.numbers")
"""Rooms and modules that `pip install lostjax` is enough for."""

BLOCK = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""
"""Makes the packages of the extras as good as absent in a child process."""


def read_requirements(extra: str) -> set[str]:
    """List the distributions of an extra."""
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    text = parser["options.extras_require"][extra]
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {re.split(r"[<>=\[]", line)[0].lower().replace("_", "-") for line in lines}


def run_without_the_extras(code: str) -> subprocess.CompletedProcess[str]:
    # orbax and rich come with flax; what flax itself imports must stay.
    blocked = {name.partition(".")[0] for name in TRAIN} - {"orbax", "rich"}
    return subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked) + code],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def test_the_library_needs_no_extra():
    code = "import importlib, lostjax\n" + "".join(
        f"importlib.import_module('lostjax.{name}')\n" for name in CORE
    )
    code += "from lostjax.__main__ import main\nassert main(['--help']) == 0\n"
    code += "from lostjax import losses, nn\nlostjax.optim.frugal\n"
    for lazy in ("train.run", "plan.make_plan"):
        code += f"try:\n    lostjax.{lazy}\nexcept ImportError as e:\n    print(e)\n"
    code += "try:\n    import lostjax.data\nexcept ImportError as e:\n    print(e)"
    done = run_without_the_extras(code)
    assert done.returncode == 0, done.stderr
    needed = "needs pip install 'lostjax[train]' (missing: grain, "
    said = done.stdout.splitlines()[-3:]
    for line, room in zip(said, ("train", "plan", "data"), strict=True):
        assert line.startswith(f"lostjax.{room} {needed}")


def test_a_program_without_its_extra_is_one_line_and_exit_code_2():
    # All in one child: what they import before they notice is next to nothing.
    code = (
        "import runpy\n"
        f"for name in {list(PROGRAMS)!r}:\n"
        "    try:\n"
        "        runpy.run_module(f'lostjax.{name}', run_name='__main__')\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 2, (name, end.code)\n"
        "    else:\n"
        "        raise AssertionError(name)\n"
        "assert 'jax' not in sys.modules\n"
    )
    done = run_without_the_extras(code)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(PROGRAMS)
    for name, line in zip(PROGRAMS, lines, strict=True):
        needed = "error: needs pip install 'lostjax[train]' (missing: grain, "
        assert line.startswith(f"python -m lostjax.{name}: {needed}")
        assert "tyro" in line


def test_the_modules_of_the_extra_are_those_of_its_packages():
    found = importlib.metadata.packages_distributions()
    owners = {
        found[module.partition(".")[0]][0].lower().replace("_", "-")
        for module in TRAIN
        if module != "orbax.checkpoint"  # of several distributions in one namespace
    }
    assert owners | {"orbax-checkpoint"} == read_requirements("train")


@pytest.mark.parametrize("extra", ["tpu", "cuda12", "cuda13", "plan", "wandb", "docs"])
def test_an_extra_that_trains_includes_the_trainer(extra):
    assert "lostjax" in read_requirements(extra)
