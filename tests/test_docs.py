"""Nothing is missing from the site: public names, result pages, promises' tests."""

import importlib.util
import re
from pathlib import Path

import pytest

import lostjax

ROOT = Path(__file__).parents[1]
API = ROOT / "docs" / "api"
ROOMS = sorted(
    path.name
    for path in Path(lostjax.__path__[0]).iterdir()
    if (API / f"{path.name}.md").exists() and path.is_dir()
)
"""Rooms with a page; `test_every_room_has_a_page` says which need one."""

PUBLIC = (
    *("nn", "losses", "metrics", "optim", "data", "steps", "analysis", "train"),
    "plan",
)
"""Rooms whose names a user imports."""


def public_names(room: str) -> set[str]:
    """List what a room exports; a room may leave that to its modules."""
    return set(getattr(importlib.import_module(f"lostjax.{room}"), "__all__", ()))


def documented_names(room: str, text: str) -> set[str]:
    """List the names of a room that a page documents."""
    if re.search(rf"^\.\. room:: lostjax\.{room}$", text, flags=re.MULTILINE):
        return public_names(room)
    entry = rf"^\.\. auto(?:class|function|data|exception):: lostjax\.{room}\.(\w+)$"
    return set(re.findall(entry, text, flags=re.MULTILINE))


@pytest.mark.parametrize("room", [r for r in ROOMS if r in PUBLIC])
def test_every_public_name_is_on_the_page_of_its_room(room):
    names = public_names(room)
    documented = documented_names(room, (API / f"{room}.md").read_text())
    assert names - documented == set(), f"add them to docs/api/{room}.md"
    assert documented - names == set(), f"remove them from docs/api/{room}.md"


def test_a_name_that_is_missing_from_a_page_is_found():
    text = (API / "losses.md").read_text()
    assert "upper" in documented_names("losses", text)
    shorter = text.replace(".. autofunction:: lostjax.losses.upper\n", "")
    assert documented_names("losses", text) - documented_names("losses", shorter) == {
        "upper"
    }


def test_every_room_has_a_page():
    rooms = [room for room in PUBLIC if (ROOT / "lostjax" / room).is_dir()]
    assert [room for room in rooms if room not in ROOMS] == []
    index = (API / "index.md").read_text()
    assert [room for room in ROOMS if f"\n{room}\n" not in index] == []


@pytest.mark.parametrize("folder", ["results", "benchmarks"])
def test_every_page_of_figures_is_on_the_site(folder):
    pages = {path.name for path in (ROOT / folder).glob("*.md")} - {"README.md"}
    on_site = {path.name for path in (ROOT / "docs" / folder).glob("*.md")}
    assert pages == on_site - {"index.md"}
    index = (ROOT / folder / "README.md").read_text()
    assert [name for name in pages if f"({name})" not in index] == []


def test_every_file_of_figures_says_what_it_is():
    for path in (ROOT / "benchmarks").glob("*_20*.md"):
        text = path.read_text()
        assert re.search(r"\*\*Kind\*\*: (static|measured|time is measured)", text), (
            path
        )
        assert all(f"**{word}" in text for word in ("Versions", "Date")), path
        assert "python " in text, f"{path}: no command"


def test_a_page_that_would_fetch_something_is_found(tmp_path):
    pytest.importorskip("sphinx")
    source = ROOT / "docs" / "_ext" / "offline.py"
    spec = importlib.util.spec_from_file_location("offline", source)
    offline = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(offline)
    page = tmp_path / "page.html"
    page.write_text('<a href="https://arxiv.org">a link</a><img src="local.png">')
    assert offline.find_remote_assets(tmp_path) == []
    page.write_text('<script async src="https://cdn.example/x.js"></script>')
    (tmp_path / "style.css").write_text("@import url(//fonts.example/css);")
    assert len(offline.find_remote_assets(tmp_path)) == 2


def test_the_tests_behind_the_promises_exist():
    text = (ROOT / "RELIABILITY.md").read_text()
    files = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    defined = set(re.findall(r"def (test_\w+)", "\n".join(files.values())))
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 50
    assert named - defined == set()
    paths = re.findall(r"((?:tests|benchmarks)/[\w/.-]+\.(?:py|md))", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
