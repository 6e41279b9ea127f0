"""The README and the site: examples run, commands parse, names and links exist."""

import contextlib
import importlib
import io
import re
import shlex
from pathlib import Path

import jax
import pytest
from flax import nnx

import lostjax.nn
from lostjax.train.__main__ import parse_command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
INCLUDED = [
    *sorted((ROOT / "benchmarks").glob("*.md")),
    ROOT / "results" / "README.md",
    *(ROOT / f"{name}.md" for name in ("RELIABILITY", "CHANGELOG", "CONTRIBUTING")),
]
"""Pages that the site includes from outside of docs/."""

PARTS = "model|data|optim|objective|stability|guard|hosts"
"""Parts of the configuration, under which flags are nested."""

ROOMS = ("nn", "losses", "optim", "data", "analysis", "metrics", "steps")


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def read_commands(text: str) -> list[str]:
    """Find the commands of lostjax: lines of blocks, continued ones joined."""
    fences = re.findall(r"^```(\S*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    blocks = [block for language, block in fences if not language]
    blocks += re.findall(r"(?:^|\n\n)((?: {4}.*\n)+)", text)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`(python -m lostjax\.[^`\n]*)`", text)
    found = (re.search(r"python -m lostjax\.[^#]*", line) for line in lines)
    return [match[0].strip() for match in found if match]


def trainer_commands() -> list[tuple[str, str]]:
    pages = [*PAGES, *INCLUDED]
    pages_of = {
        line: page_name(page)
        for page in pages
        for line in read_commands(page.read_text())
    }
    return [
        (page, line.removeprefix("python -m lostjax.train").strip())
        for line, page in pages_of.items()
        if line.startswith("python -m lostjax.train")
    ]


def read_help() -> str:
    """Print the trainer's help, the full one where there are two."""
    for flag in ("--help-all", "--help"):
        out = io.StringIO()
        with contextlib.suppress(ValueError), contextlib.redirect_stdout(out):
            with pytest.raises(SystemExit):
                parse_command([flag])
            return out.getvalue()
    raise AssertionError("the trainer has no help")


def test_the_readme_is_read_in_one_sitting():
    assert len(README.splitlines()) <= 200
    assert len(README.split()) <= 1300


def test_the_library_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(list(filter(None, code.splitlines()))) == 12
    scope = {}
    exec(code, scope)
    shapes = jax.tree.map(jax.numpy.shape, scope["params"])
    assert jax.tree.map(jax.numpy.shape, scope["updates"]) == shapes


@pytest.mark.parametrize(
    "page", [p for p in PAGES if "```python" in p.read_text()], ids=page_name
)
def test_every_example_runs(page, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        exec(code, {})


@pytest.mark.parametrize("page", ["README.md", "docs/start.md"])
def test_a_layer_is_wrapped_for_nnx_as_it_says(page):
    text = (ROOT / page).read_text()
    (code,) = re.findall(r"`flax\.nnx\.bridge\.(ToNNX\(.*?)` wraps", text)
    scope = {"ToNNX": nnx.bridge.ToNNX, "nn": lostjax.nn, "nnx": nnx}
    layer = eval(code, {**scope, "x": jax.numpy.ones((1, 32))})
    assert layer(jax.numpy.ones((3, 32))).shape == (3, 64)


@pytest.mark.parametrize("page", [*PAGES, *INCLUDED], ids=page_name)
def test_names_exist(page):
    rooms = "|".join(ROOMS)
    named = set(
        re.findall(rf"`(?:lostjax\.)?({rooms})\.([a-zA-Z_]+)", page.read_text())
    )
    missing = [
        f"{room}.{name}"
        for room, name in named - {("data", "json"), ("metrics", "jsonl")}  # files
        if (ROOT / "lostjax" / room).is_dir()
        and not hasattr(importlib.import_module(f"lostjax.{room}"), name)
        and not list((ROOT / "lostjax" / room).glob(f"{name}*"))
    ]
    assert not missing


@pytest.mark.parametrize("page", [*PAGES, *INCLUDED], ids=page_name)
def test_links_to_files_exist(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page, line", trainer_commands())
def test_commands_of_the_trainer_are_understood(page, line):
    del page  # in the test's name
    words = shlex.split(line)
    needs_a_file = ("--help", "--resume", "--config", "--init-from")
    if not any(word.startswith(needs_a_file) for word in words):
        parse_command(words)


@pytest.fixture(scope="session")
def known_flags():
    """Every flag of the trainer; the other programs nest none under a part."""
    return set(re.findall(r"--([a-z0-9][a-z0-9.-]*)", read_help()))


def read_flags(page: Path) -> set[str]:
    """Find the flags that a page names, without error messages and old names."""
    text = re.sub(r"```text.*?```", "", page.read_text(), flags=re.DOTALL)
    text = re.sub(r"^#.*`", "", text, flags=re.MULTILINE)
    text = re.sub(r"\| `--[a-z.-]+` (?=\| `--)", "", text)  # old names in a table
    return set(re.findall(rf"--((?:{PARTS})\.[a-z0-9.-]*[a-z0-9])", text))


@pytest.mark.parametrize("page", [*PAGES, *INCLUDED], ids=page_name)
def test_flags_in_the_text_exist(page, known_flags):
    assert not read_flags(page) - known_flags
