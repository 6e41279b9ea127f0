"""Pages of HTML: one Jinja2 environment, one style sheet, every page one file.

A program hands plain text, `Table`s and `Drawing`s to a template of its own in
`view/templates`, all of which extend `page.html`. Jinja2 escapes whatever is not
`Markup`, and the only `Markup` is what `view` itself draws: text of unknown origin (a
sample, a path, a configuration) cannot become markup. The page's policy forbids
scripts, images, fonts and requests of any kind.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lostjax.view.characters import replace_controls


class Table(NamedTuple):
    """Rows of text; the first column names its row."""

    caption: str
    head: Sequence[str]
    """Names of the columns."""
    rows: Sequence[Sequence[str]]
    """As many cells each as `head`."""


class Bar(NamedTuple):
    """A row of a bar chart."""

    label: str
    text: str
    """The value as it is read."""
    share: float
    """Of the longest bar, from 0 to 1."""
    strong: bool = False
    """Whether the bar stands out."""


class Drawing(NamedTuple):
    """An `<svg>` element with the lines under it."""

    wide: Markup
    narrow: Markup | None = None
    """Drawn for a phone; None if the wide one fits everywhere."""
    note: str = ""
    alarm: str = ""


ENVIRONMENT = Environment(
    loader=PackageLoader("lostjax.view"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.globals["style"] = Markup(
    files("lostjax.view").joinpath("style.css").read_text(encoding="utf-8")
)


def render_page(template: str, values: Mapping[str, object]) -> str:
    """Render a whole document.

    Args:
      template: name of a file in `view/templates`.
      values: what the template reads, by name.

    Returns:
      HTML that needs no other file; control characters are U+FFFD.

    Raises:
      jinja2.UndefinedError: if the template reads a value that is absent.
    """
    return replace_controls(ENVIRONMENT.get_template(template).render(values))
