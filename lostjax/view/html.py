"""A page of HTML: elements that escape what they hold, one style, one skeleton.

`element` escapes every child that is not `Html` already, so text of unknown origin
(a sample, a path, a configuration) cannot become markup. The page asks nobody for
anything: its policy forbids scripts, images, fonts and requests of any kind.
"""

import re
from collections.abc import Mapping
from html import escape as _escape

_VOID = frozenset({"meta", "br", "hr"})
# C0 and C1 controls but tab and newline, the bidirectional overrides (which could make
# a page read otherwise than it is written), lone surrogates.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


class Html(str):
    """Text that is markup already."""


def escape(text: str) -> Html:
    """Escape `text` for an element or an attribute; controls become U+FFFD."""
    return Html(_escape(_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text), quote=True))


def element(
    tag: str,
    *children: str,
    css: str = "",
    attributes: Mapping[str, str] | None = None,
) -> Html:
    """Make an element.

    Args:
        tag: Its name.
        *children: Strings, escaped, and `Html`, kept.
        css: Its classes.
        attributes: Further attributes; values are escaped.

    Returns:
        The element as markup.
    """
    pairs = ({"class": css} if css else {}) | dict(attributes or {})
    head = "".join(f' {name}="{escape(value)}"' for name, value in pairs.items())
    if tag in _VOID:
        return Html(f"<{tag}{head}>")
    inner = join(*children)
    return Html(f"<{tag}{head}>{inner}</{tag}>")


def join(*children: str) -> Html:
    """Put children one after the other, escaping those that are not `Html`."""
    return Html("".join(c if isinstance(c, Html) else escape(c) for c in children))


def table(
    *,
    caption: str,
    head: tuple[str, ...],
    rows: list[tuple[str, ...]],
    css: str = "",
) -> Html:
    """Make a table whose first column names its rows; it scrolls where it is too wide.

    Args:
        caption: What it holds.
        head: The names of the columns.
        rows: As many cells each as `head`; cells may be `Html`.
        css: Classes of the table.
    """
    cells = [element("th", name, attributes={"scope": "col"}) for name in head]
    body = [
        element(
            "tr",
            element("th", row[0], attributes={"scope": "row"}),
            *(element("td", cell) for cell in row[1:]),
        )
        for row in rows
    ]
    inner = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *cells)),
        element("tbody", *body),
        css=css,
    )
    region = {"role": "region", "aria-label": caption, "tabindex": "0"}
    return element("div", inner, css="scroll", attributes=region)


def page(*, title: str, body: Html) -> str:
    """Make the whole document."""
    policy = {
        "http-equiv": "Content-Security-Policy",
        "content": "default-src 'none'; style-src 'unsafe-inline'",
    }
    viewport = {"name": "viewport", "content": "width=device-width, initial-scale=1"}
    scheme = {"name": "color-scheme", "content": "light dark"}
    head = element(
        "head",
        element("meta", attributes={"charset": "utf-8"}),
        element("meta", attributes=policy),
        element("meta", attributes=viewport),
        element("meta", attributes=scheme),
        element("title", title),
        element("style", Html(STYLE)),
    )
    html = element(
        "html", head, element("body", element("main", body)), attributes={"lang": "en"}
    )
    return f"<!DOCTYPE html>\n{html}\n"


STYLE = """
:root {
  --paper: #fdfdfb; --ink: #1b1e22; --soft: #5a6068; --rule: #dfdfd9;
  --panel: #f4f4ef; --series-1: #1f5fa8; --series-2: #b8500f;
  --series-3: #2b7a4b; --alarm: #b3261e;
  --serif: Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif;
  --sans: system-ui, -apple-system, "Segoe UI", "Helvetica Neue", "Liberation Sans",
    Arial, sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --ink: #e4e4e0; --soft: #a3a8ae; --rule: #34383d;
    --panel: #1d2024; --series-1: #7fb4f2; --series-2: #f0a066;
    --series-3: #7ccb98; --alarm: #ff8a80;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.55 var(--serif); -webkit-text-size-adjust: 100%;
}
main { max-width: 1040px; margin: 0 auto; padding: 48px 28px 64px; }
h1 { font-size: 32px; line-height: 1.2; font-weight: 600; margin: 0 0 14px; }
h2 {
  font-size: 21px; font-weight: 600; line-height: 1.3; margin: 56px 0 14px;
  padding-top: 14px; border-top: 1px solid var(--rule);
}
h3 { font: 600 14px/1.4 var(--sans); margin: 0 0 4px; }
p { margin: 0 0 12px; max-width: 68ch; }
.over { font: 14px/1.4 var(--sans); color: var(--soft); margin: 0 0 6px; }
.note { font: 14px/1.5 var(--sans); color: var(--soft); max-width: 82ch; }
.alarm { color: var(--alarm); font: 600 15px/1.5 var(--sans); }
pre {
  font: 13px/1.55 var(--mono); background: var(--panel); margin: 0; padding: 10px 14px;
  white-space: pre-wrap; overflow-wrap: anywhere; border-radius: 4px;
}
.headline {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr));
  gap: 22px 26px; margin: 32px 0 20px;
}
.headline dd { font-size: 28px; line-height: 1.15; margin: 0; white-space: nowrap; }
.headline dt { font: 14px/1.4 var(--sans); color: var(--soft); }
.headline div { display: flex; flex-direction: column-reverse; }
.headline div { justify-content: flex-end; }
figure { margin: 0; }
figcaption { font: 14px/1.5 var(--sans); color: var(--soft); margin-top: 4px; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-family: var(--sans) !important; font-variant-numeric: tabular-nums; }
.narrow { display: none; }
.grid {
  display: grid; gap: 36px 40px; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr));
}
.thirds {
  gap: 32px 36px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 280px), 1fr));
}
.thirds + .note { margin-top: 16px; }
.scroll { overflow-x: auto; }
table {
  border-collapse: collapse; width: 100%; font: 15px/1.4 var(--sans);
  font-variant-numeric: tabular-nums;
}
caption {
  text-align: left; font-size: 14px; color: var(--soft); padding: 0 0 8px;
}
th, td {
  padding: 6px 0 6px 20px; text-align: right; font-weight: 400; vertical-align: top;
  border-bottom: 1px solid var(--rule);
}
td { white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--soft); font-size: 14px; vertical-align: bottom; }
.bars td:nth-child(2) { width: 48%; vertical-align: middle; }
.bar { display: block; height: 10px; background: var(--soft); opacity: .55; }
.bar.us { background: var(--series-1); opacity: 1; }
.us-name { font-weight: 600; color: var(--series-1); }
.pairs td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.pairs th { width: 46%; color: var(--soft); overflow-wrap: anywhere; }
.pairs th, .pairs td { padding-top: 4px; padding-bottom: 4px; }
.pairs caption { color: var(--ink); font-weight: 600; padding-bottom: 4px; }
.pairs thead {
  position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
}
.columns { columns: 400px 2; column-gap: 40px; }
.columns > * { break-inside: avoid; margin-bottom: 26px; }
.sample {
  font-size: 18px; line-height: 1.65; max-width: 66ch; white-space: pre-wrap;
  overflow-wrap: anywhere; border-left: 2px solid var(--rule); padding-left: 20px;
  margin: 0 0 12px;
}
.prompt { font-weight: 600; }
details { margin-top: 16px; }
summary { font: 14px/1.5 var(--sans); color: var(--soft); cursor: pointer; }
:focus-visible { outline: 2px solid var(--series-1); outline-offset: 2px; }
@media (max-width: 640px) {
  main { padding: 28px 18px 48px; }
  body { font-size: 16px; }
  h1 { font-size: 26px; }
  h2 { margin-top: 44px; }
  .headline { grid-template-columns: 1fr 1fr; gap: 18px 20px; }
  .headline dd { font-size: 26px; }
  .wide { display: none; }
  .narrow { display: block; }
  table { font-size: 14px; }
  th, td { padding-left: 12px; }
  .bars td:nth-child(2) { width: 38%; }
}
@media print {
  h2, figure, tr { break-inside: avoid; }
}
"""
