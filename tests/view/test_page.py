"""Pages: templates that escape, one style sheet, nothing from outside."""

import configparser
from fnmatch import fnmatch
from pathlib import Path

import pytest
from jinja2 import UndefinedError

import lostjax.view
from lostjax.view.page import ENVIRONMENT, Table, render_page

ATTACK = "\"'></pre><script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{ 1 }}"
PLAN = {
    "title": ATTACK,
    "heading": ATTACK,
    "hardware": ATTACK,
    "fit": ATTACK,
    "plans": Table(ATTACK, ("", ATTACK), [(ATTACK, ATTACK)]),
    "notes": [ATTACK],
}


def test_what_a_template_is_given_is_escaped(read_page):
    page = read_page(render_page("plan.html", PLAN))
    assert page.text.count("<script>alert(1)</script>") == 9
    assert page.text.count("{{ 1 }}") == 9
    region = next(a for tag, a in page.tags if a.get("role") == "region")
    assert region["aria-label"] == ATTACK


def test_controls_are_replaced(read_page):
    hidden = "a\0b\x1bc\u202ed\udcffe\ttab"
    page = read_page(render_page("plan.html", PLAN | {"heading": hidden}))
    assert "a\ufffdb\ufffdc\ufffdd\ufffde tab" in page.text


def test_the_policy_of_every_page_forbids_requests(read_page):
    text = render_page("plan.html", PLAN)
    (policy,) = (
        attributes["content"]
        for tag, attributes in read_page(text).tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_a_value_that_is_absent_is_an_error():
    with pytest.raises(UndefinedError, match="'notes' is undefined"):
        render_page("plan.html", {k: v for k, v in PLAN.items() if k != "notes"})


@pytest.mark.parametrize("name", ENVIRONMENT.list_templates())
def test_no_template_switches_escaping_off(name):
    source, _, _ = ENVIRONMENT.loader.get_source(ENVIRONMENT, name)
    assert "safe" not in source.replace("unsafe-inline", "")
    assert "autoescape" not in source


def test_a_wheel_holds_templates_and_style():
    root = Path(lostjax.view.__file__).parent
    metadata = configparser.ConfigParser()
    metadata.read(root.parents[1] / "setup.cfg")
    listed = metadata["options.package_data"]["lostjax.view"].split(", ")
    held = [path for path in root.rglob("*") if path.suffix in {".html", ".css"}]
    assert len(held) >= 6
    for path in held:
        name = str(path.relative_to(root))
        assert any(fnmatch(name, pattern) for pattern in listed), name
