"""The house rules that import-linter cannot see."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "lostjax").rglob("*.py"))

DOORS = {
    # third-party package: where it may be imported
    "jax.experimental.pallas": ("nn/kernels/",),
    "orbax": ("train/keep/",),
    "tokenizers": ("data/",),
    "sentencepiece": ("data/",),
    "grain": ("data/",),
    "tensorflow_datasets": ("data/",),
    "tyro": ("train/flags.py",),
    "matplotlib": ("view/",),
    "jinja2": ("view/",),
    "markupsafe": ("view/",),
    "rich": ("train/log/", "train/report/", "generate.py", "plan/"),
    "tensorflow": (),
    "torch": (),
    "clu": (),
    # A pickle may run anything: these make arrays and tables and refuse all else.
    "pickle": ("data/samples/human_labels.py", "data/samples/lifetimes.py"),
}


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return names


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name
)
def test_published_peaks_of_chips_have_one_source(path):
    """They stand in train/devices/chips.py: a second table would drift from it."""
    numbers = [
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, float)
    ]
    assert not [number for number in numbers if number >= 1e11]


@pytest.mark.parametrize("package", DOORS)
def test_each_package_has_one_door(package):
    for path in MODULES:
        place = str(path.relative_to(ROOT / "lostjax"))
        if any(
            place.startswith(door) or place.endswith(door) for door in DOORS[package]
        ):
            continue
        found = [
            name
            for name in imported_names(path)
            if name == package or name.startswith(package + ".")
        ]
        assert not found, f"{place} imports {found[0]}"


def test_no_room_for_leftovers():
    names = {path.stem for path in MODULES} | {path.parent.name for path in MODULES}
    assert not names & {"utils", "util", "common", "misc", "base", "helpers"}


def test_every_module_says_what_it_is():
    assert not [str(path) for path in MODULES if not ast.get_docstring(parse(path))]


def test_light_rooms_load_nothing_heavy():
    rooms = "lostjax.optim, lostjax.losses"
    heavy = "orbax", "grain", "tensorflow_datasets", "tensorflow", "matplotlib"
    code = f"import sys, {rooms}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_rooms_are_imported_when_they_are_first_used():
    script = (
        "import sys, lostjax\n"
        "assert 'jax' not in sys.modules and 'optim' in dir(lostjax)\n"
        "lostjax.optim.frugal()\n"
        "assert 'lostjax.data' not in sys.modules\n"
        "try:\n    lostjax.nothing\n"
        "except AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "module 'lostjax' has no attribute 'nothing'\n"
