"""Read lostjax's docstrings into the API pages.

The docstrings are plain text with `code` in single backticks and equations in indented
blocks. This extension turns the indented blocks into literal ones, finds the docstrings
of names that a room imports from one of its modules, and adds two directives:

    .. background:: lostjax.losses.trajectory_loss      the docstring of its module
    .. room:: lostjax.metrics                           every public name of a room

Both name public names only, so that a module can move without touching a page.
"""

import dataclasses
import importlib
import itertools
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import PycodeError
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

import lostjax

SECTIONS = frozenset(
    {"Args:", "Attributes:", "Returns:", "Raises:", "Yields:", "Example:", "Examples:"}
)
"""Headings whose indented blocks napoleon reads."""


def mark_literal_blocks(lines: list[str]) -> list[str]:
    """Put `::` before indented blocks that stand apart from any section."""
    lines = _indent_equations(lines)
    marked: list[str] = []
    in_block = in_section = False
    for i, line in enumerate(lines):
        indented = line.startswith("    ") or (line.startswith("  ") and in_section)
        if line.strip() and not indented:
            in_block = False
            in_section = line.strip() in SECTIONS
        elif line.strip() and not in_block and not in_section:
            in_block = True
            if not lines[i - 1].strip() and not _opens_literal(marked):
                marked += ["::", ""]
        marked.append(line if in_block else escape_markup(line))
    return marked


def escape_markup(line: str) -> str:
    """Escape the characters of formulas that have a meaning in reStructuredText."""
    if line.lstrip().startswith((">>>", "...", "* ")):
        return line
    parts = line.split("`")
    parts[::2] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def _indent_equations(lines: list[str]) -> list[str]:
    """Indent paragraphs that begin at the margin and go on far from it: equations."""
    out: list[str] = []
    for is_blank, group in itertools.groupby(lines, key=lambda line: not line.strip()):
        paragraph = list(group)
        first, *rest = paragraph
        is_equation = (
            not is_blank
            and not first.startswith((" ", ">>>", "- ", "* "))
            and first.strip() not in SECTIONS
            and any(line.startswith("    ") for line in rest)
        )
        out += ["    " + line for line in paragraph] if is_equation else paragraph
    return out


def _opens_literal(lines: list[str]) -> bool:
    """Whether the last text line already ends in `::`."""
    return next((x.rstrip().endswith("::") for x in lines[::-1] if x.strip()), False)


def document_examples(lines: list[str]) -> list[str]:
    """Make the body of `Example:` a literal block, unless it is a doctest."""
    out: list[str] = []
    for i, line in enumerate(lines):
        out.append(line)
        if line.strip() in ("Example:", "Examples:"):
            body = next((x.strip() for x in lines[i + 1 :] if x.strip()), "")
            if not body.startswith(">>>"):
                indent = " " * (len(line) - len(line.lstrip()) + 2)
                out += [f"{indent}.. code-block:: python", ""]
                body_lines = lines[i + 1 :]
                return out + ["  " + x if x.strip() else x for x in body_lines]
    return out


def find_attribute_doc(room: str, name: str) -> list[str] | None:
    """Find the string below an assignment to `name` in the modules of a room."""
    for module_name in sorted(sys.modules):
        if module_name.startswith(room + "."):
            try:
                docs = ModuleAnalyzer.for_module(module_name).find_attr_docs()
            except PycodeError:
                continue
            if ("", name) in docs:
                return docs["", name]
    return None


def process_docstring(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Adapt a docstring before napoleon reads it."""
    del app, options
    if what == "data":
        room, _, short = name.rpartition(".")
        lines[:] = find_attribute_doc(room, short) or []
    if lines and lines[0].startswith("Alias for field number"):
        lines[:] = []
    if what == "class" and dataclasses.is_dataclass(obj):
        # The attributes of a module are the arguments of its constructor.
        lines[:] = ["Args:" if x == "Attributes:" else x for x in lines]
    lines[:] = document_examples(mark_literal_blocks(lines))
    _ATTRIBUTES[name] = lines.copy()


def restore_attribute(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Undo napoleon's reading of `A rule: what it does` as a type and a text."""
    del app, obj, options
    if what in ("data", "attribute"):
        lines[:] = _ATTRIBUTES[name]


_ATTRIBUTES: dict[str, list[str]] = {}


def skip_member(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out fields whose default is a function or a type: they look like members.

    `Attributes` of the class's docstring describes them.
    """
    del app, what, skip, options
    if isinstance(obj, type):
        return True if obj.__name__ != name else None
    own = getattr(obj, "__qualname__", name).rpartition(".")[0]
    return True if callable(obj) and not own else None


def write_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, *signature: str | None
) -> tuple[str, str | None] | None:
    """Write the fields of a dataclass or tuple without types: they stand below."""
    del app, name, options
    if what == "function" and signature[0] is not None:
        return _shorten_types(signature[0]), _shorten_types(signature[1] or "") or None
    if what != "class":
        return None
    if issubclass(obj, tuple) and hasattr(obj, "_fields"):
        return f"({', '.join(obj._fields)})", None
    if getattr(obj, "_is_protocol", False):
        return "", None
    if not dataclasses.is_dataclass(obj):
        return None
    fields = [field for field in dataclasses.fields(obj) if field.init]
    shown = [_show_field(f) for f in fields if f.name not in ("parent", "name")]
    return f"({', '.join(shown)})", None


def _shorten_types(signature: str) -> str:
    """Write the long unions of optax and JAX by the names of their aliases."""
    words = re.sub(r"~?\b(?:[A-Za-z_]\w*\.)+(?=\w)", "", signature)
    array = r"Array \| ndarray \| bool \| number \| bool \| int \| float \| complex"
    for union, alias in (
        (
            rf"{array} \| Iterable\[ArrayTree\] \| Mapping\[Any, ArrayTree\]",
            "ArrayTree",
        ),
        (array, "ArrayLike"),
        (r"str \| type\[Any\] \| dtype \| SupportsDType", "DTypeLike"),
    ):
        shorter = re.sub(union, alias, words)
        words, signature = shorter, shorter if shorter != words else signature
    return signature


def _show_field(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return field.name
    value = getattr(field.default, "__name__", None) or repr(field.default)
    return f"{field.name}={'...' if '<' in value else value}"


def public_objects(room: ModuleType) -> dict[str, list[str]]:
    """Group a room's public names by the module that defines them, in source order."""
    groups: dict[str, list[str]] = {}
    for name in room.__all__:
        where = getattr(getattr(room, name), "__module__", None) or ""
        groups.setdefault(where if where.startswith("lostjax") else "", []).append(name)
    return groups


class _Nested(SphinxDirective):
    """A directive that writes reStructuredText and has it parsed."""

    required_arguments = 1

    def parse(self, lines: list[str], source: str) -> list[nodes.Node]:
        content = StringList(lines, source=source)
        node = nodes.section()
        node.document = self.state.document
        self.state.nested_parse(content, self.content_offset, node, match_titles=1)
        return node.children


class Background(_Nested):
    """The docstring of the module that defines a public name: equation and source."""

    def run(self) -> list[nodes.Node]:
        room, _, name = self.arguments[0].rpartition(".")
        obj = getattr(importlib.import_module(room), name)
        lines = (sys.modules[obj.__module__].__doc__ or "").splitlines()
        return self.parse(mark_literal_blocks(lines), f"docstring of {obj.__module__}")


class Room(_Nested):
    """Every public name of a room, by the module that defines it."""

    def run(self) -> list[nodes.Node]:
        folder = self.arguments[0].partition(".")[2]
        if not Path(lostjax.__path__[0], folder).is_dir():
            return self.parse(["This version has no such room."], "room")
        room = importlib.import_module(self.arguments[0])
        lines: list[str] = []  # the page has an introduction of its own
        if not hasattr(room, "__all__"):
            names = [info.name for info in pkgutil.iter_modules(room.__path__)]
            modules = [importlib.import_module(f"{room.__name__}.{n}") for n in names]
            groups = {m.__name__: _own_names(m) for m in modules}
        else:
            groups = public_objects(room)
        for where, names in groups.items():
            prefix = room.__name__ if hasattr(room, "__all__") else where
            title = where.removeprefix(room.__name__ + ".") or "Types and constants"
            lines += ["", title, "-" * len(title), ""]
            if where:
                doc = (sys.modules[where].__doc__ or "").splitlines()
                lines += [*mark_literal_blocks(doc), ""]
            for name in names:
                kind = _autodoc_kind(getattr(sys.modules[prefix], name))
                lines += [f".. {kind}:: {prefix}.{name}"]
                lines += ["   :members:", ""] if kind == "autoclass" else [""]
        return self.parse(lines, f"room {room.__name__}")


def _own_names(module: ModuleType) -> list[str]:
    """List the documented names that a module defines itself."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
        and getattr(value, "__doc__", None)
    ]


def _autodoc_kind(obj: Any) -> str:
    if isinstance(obj, type):
        return "autoexception" if issubclass(obj, BaseException) else "autoclass"
    return "autofunction" if callable(obj) and hasattr(obj, "__code__") else "autodata"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives and hooks."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_directive("background", Background)
    app.add_directive("room", Room)
    app.connect("autodoc-process-docstring", process_docstring, priority=100)
    app.connect("autodoc-process-docstring", restore_attribute, priority=900)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("autodoc-process-signature", write_signature)
    return {"parallel_read_safe": True}
