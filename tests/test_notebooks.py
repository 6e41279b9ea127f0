"""Notebooks: run at small size in a real kernel, and committed with their outputs."""

import ast
import base64
import importlib
import importlib.util
import os
import re
from pathlib import Path

import matplotlib.font_manager  # makes the list of fonts
import pytest

import lostjax

pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 500_000  # bytes of a notebook with its outputs

_spec = importlib.util.spec_from_file_location(
    "execute", ROOT / "notebooks" / "execute.py"
)
execute = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(execute)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def printed(notebook):
    return "".join(o.text for o in outputs(notebook) if o.output_type == "stream")


def figures(notebook):
    shown = [output.get("data", {}) for output in outputs(notebook)]
    return [data["image/png"] for data in shown if "image/png" in data]


@pytest.fixture
def run_small(monkeypatch, tmp_path, cache_dir):
    def run(number, *, cells=None, more=()):
        """Run a notebook, or its first cells of code, and more in the same kernel."""
        # ipykernel would leave what libraries write to file descriptors uncaught.
        monkeypatch.delenv("PYTEST_CURRENT_TEST")
        monkeypatch.setenv(execute.SMALL, "1")
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache_dir))
        # A new list of fonts would take seconds, and a line on standard error.
        monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())
        monkeypatch.setenv(
            "PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        )
        notebook = execute.read(NOTEBOOKS[number - 1])
        notebook.cells = code_cells(notebook)[:cells]
        notebook.cells += map(execute.nbformat.v4.new_code_cell, more)
        for cell in notebook.cells:
            cell.outputs = []
            if "# raises" in cell.source:
                cell.metadata["tags"] = ["raises-exception"]
        execute.execute(notebook, directory=tmp_path)
        return notebook

    return run


INTERRUPTED = """
import dataclasses, os, signal

def interrupt(step, metrics):
    if step in (3, 6):
        os.kill(os.getpid(), signal.SIGINT)  # as a notebook's button does

config = dataclasses.replace(config, steps=100, run_dir="interrupted")
try:
    lostjax.train.run(config, callbacks=[interrupt])
finally:
    run = lostjax.train.load("interrupted")  # raises
"""

RESUMED = """
print(run, "on", len(jax.devices()))
config = dataclasses.replace(run.config, mesh="data:1")
try:
    lostjax.train.run(config, callbacks=[interrupt])
except lostjax.train.Stopped as stopped:
    print(stopped.run)
"""


def test_the_first_notebook_trains(run_small):
    notebook = run_small(1)
    assert execute.find_noise(notebook) == []
    lines = printed(notebook)
    first, last = (
        float(re.search(rf"step {step}/20  loss ([\d.]+)", lines)[1])
        for step in (1, 20)
    )
    assert last < first
    assert lines.count("Fellow citizens,") == 3, "the run's own sample, and two"
    assert "LOST has" in lines and "report.html" in lines
    assert len(figures(notebook)) == 2
    (report,) = notebook.cells[-1].outputs
    assert report.data["text/html"].startswith("<iframe title=")


@pytest.mark.slow
def test_an_interrupted_cell_keeps_the_run_for_later_cells(run_small, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    notebook = run_small(1, cells=3, more=[INTERRUPTED, "run.plot()", RESUMED])
    *_, interrupted, plotted, resumed = notebook.cells
    *_, error = interrupted.outputs
    assert error.ename == "Stopped"
    assert "interrupted: stopped and saved at step" in error.evalue
    assert plotted.outputs[0].data["image/png"]
    lines = "".join(output.get("text", "") for output in resumed.outputs)
    before, after = re.findall(r"Run\(.*?: step (\d) of 100", lines)
    assert 3 <= int(before) < 6 <= int(after)
    assert ", not finished) on 2\n" in lines and "resuming" in lines
    # Nothing else is on standard error than the line of each interrupt.
    assert (
        "".join(execute.find_noise(notebook)).strip().splitlines()[::2]
        == ["SIGINT: saving and stopping; a second signal interrupts at once"] * 2
    )


@pytest.mark.slow
def test_the_second_notebook_trains_four_kinds_of_models(run_small):
    notebook = run_small(2)
    assert execute.find_noise(notebook) == []
    found = re.findall(
        r"(\w+): [\d,]+ parameters, loss ([\d.]+) to ([\d.]+)", printed(notebook)
    )
    assert [name for name, *_ in found] == ["linen", "NNX", "Equinox", "dict"]
    assert all(float(last) < float(first) for _, first, last in found)
    for kept, adam in re.findall(
        r"state: ([\d,]+) bytes; Adam's would be ([\d,]+)", printed(notebook)
    ):
        assert int(kept.replace(",", "")) < 0.5 * int(adam.replace(",", ""))
    assert len(figures(notebook)) == 3


@pytest.mark.slow
def test_the_third_notebook_compares_three_methods(run_small):
    notebook = run_small(3)
    assert execute.find_noise(notebook) == []
    lines = re.findall(r"^(\w+) .* training loss ([\d.]+)", printed(notebook), re.M)
    found = dict(lines)
    assert set(found) == {"SGD", "SAF", "MESA"}
    assert float(found["SGD"]) < float(found["SAF"]) < 2.3, "the divergence holds back"
    assert float(found["SGD"]) < float(found["MESA"]) < 2.3
    assert len(figures(notebook)) == 4


@pytest.mark.slow
def test_the_fourth_notebook_plans(run_small):
    notebook = run_small(4)
    assert execute.find_noise(notebook) == []
    text = printed(notebook)
    assert "LOST is planned:" in text and "peak memory" in text
    assert "read from the compiled program: static" in text
    assert len(figures(notebook)) == 1


@each_notebook
def test_a_notebook_begins_as_all_do(path):
    committed = execute.nbformat.read(path, as_version=4)
    assert execute.read(path) == committed, "run `make notebooks`"
    text = path.read_text()
    for owner in re.findall(
        r"github(?:\.com|usercontent\.com)?/([\w-]+/[\w-]+)/", text
    ):
        assert owner == execute.REPOSITORY


@each_notebook
def test_a_notebook_is_on_the_site(path):
    pages = ROOT / "docs" / "notebooks"
    assert (pages / path.name).resolve() == path
    assert f"\n{path.stem}\n" in (pages / "index.md").read_text()


@each_notebook
def test_a_committed_notebook_has_its_outputs(path):
    notebook = execute.nbformat.read(path, as_version=4)
    assert path.stat().st_size < LARGEST
    assert re.search(
        r"\*Executed on \d+ \w+ 20\d\d on .*: [\d.]+ minutes", notebook.cells[0].source
    )
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert execute.find_noise(notebook) == []
    assert not [o for o in outputs(notebook) if o.output_type == "error"]
    pictures = [base64.b64decode(png) for png in figures(notebook)]
    assert pictures and all(png.startswith(b"\x89PNG") for png in pictures)


def private_names(source):
    """Find what code uses of lostjax that no room exports."""
    rooms = {
        room: set(importlib.import_module(f"lostjax.{room}").__all__)
        for room in lostjax._ROOMS
    }
    public = {f"lostjax.{room}.{name}" for room in rooms for name in rooms[room]}
    public |= {"lostjax", "lostjax.__version__", *(f"lostjax.{room}" for room in rooms)}
    used, imported = set(), set()
    nodes = list(ast.walk(ast.parse(source)))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("lostjax"):
            used |= {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            used |= {a.name for a in node.names if a.name.startswith("lostjax")}
    for node in nodes:
        if isinstance(node, ast.Attribute):
            first, *rest = ast.unparse(node).split(".")
            chain = [first, *rest] if first == "lostjax" else ["lostjax", first, *rest]
            if first in {"lostjax", *imported} and len(chain) <= 3:
                used.add(".".join(chain))
    return used - public


@each_notebook
def test_a_notebook_uses_public_names(path):
    cells = code_cells(execute.nbformat.read(path, as_version=4))
    assert private_names("\n".join(cell.source for cell in cells)) == set()


def test_a_private_name_is_found():
    assert private_names("from lostjax import nn\nnn.Dense\nlostjax.train.run") == set()
    assert private_names("from lostjax.nn.budget import a") == {"lostjax.nn.budget.a"}
    assert private_names("from lostjax import nn\nnn.Dens") == {"lostjax.nn.Dens"}


@pytest.mark.parametrize(
    "jax_version, libtpu, wanted",
    [
        (
            "0.10.2",
            True,
            '"lostjax[train,digits] @ git+https://github.com/{}" jax==0.10.2 jaxlib==',
        ),
        (
            "0.12.0rc1",
            False,
            '"lostjax[train,digits] @ git+https://github.com/{}" jax==0.12.0rc1 ',
        ),
        ("0.9.1", True, '"lostjax[tpu,digits] @ git+https://github.com/{}"'),
        (None, False, '"lostjax[train,digits] @ git+https://github.com/{}"'),
    ],
)
def test_installing_never_parts_jax_from_its_plugin(
    monkeypatch, capsys, jax_version, libtpu, wanted
):
    import importlib.metadata as metadata

    def version(name):
        if jax_version is None:
            raise metadata.PackageNotFoundError(name)
        return jax_version

    there = {"libtpu": libtpu or None, "lostjax": None}
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(importlib.util, "find_spec", there.get)
    monkeypatch.setattr(Path, "exists", lambda path: False)
    calls = []
    shell = type("Shell", (), {"run_line_magic": lambda _, *words: calls.append(words)})
    exec(execute.setup("digits"), {"get_ipython": shell})
    ((magic, command),) = calls
    assert magic == "pip"
    assert command.startswith(f"install -q {wanted.format(execute.REPOSITORY)}")
    assert ("restart" in capsys.readouterr().out) == ("jax==" not in command)
    # A second time nothing is installed.
    there["lostjax"] = True
    exec(execute.setup("digits"), {"get_ipython": shell})
    assert len(calls) == 1


def test_figures_are_compressed(tmp_path):
    image = execute.Image.effect_noise((200, 200), 40).convert("RGB")
    image.save(tmp_path / "noise.png")
    png = (tmp_path / "noise.png").read_bytes()
    small = execute._quantize(png)
    assert small.startswith(b"\x89PNG") and len(small) < 0.8 * len(png)
