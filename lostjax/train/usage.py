"""The help of the programs: flags by group, with what they mean and their defaults.

The short help of a run has the flags that people use most, in one or two lines each;
the full one has every flag and its whole description.
"""

import ast
import dataclasses
import inspect
import re
import textwrap
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lostjax.train.config.fields import flag_name
from lostjax.train.config.schema import TrainConfig

COMMON: dict[str, tuple[str, ...]] = {
    "run": ("preset", "run_dir", "init_from", "mesh", "steps", "batch_size", "seed"),
    "time": ("eval_every", "checkpoint_every"),
    "model": (
        "model.linear",
        "model.d_model",
        "model.n_layers",
        "model.rank",
        "model.dtype",
    ),
    "data": ("data.source", "data.tokenizer", "data.seq_len"),
    "training": (
        "optim.name",
        "optim.learning_rate",
        "objective.reweight.name",
        "objective.trajectory.name",
    ),
}
"""Dotted fields by the heading of their group."""

SHORT = {
    "optim.name": "optim",
    "objective.reweight.name": "objective.reweight",
    "objective.trajectory.name": "objective.trajectory",
}
"""Fields whose flag has a short form."""

_WIDTH = 88
_COLUMN = 30
_NAMES = {int: "N", float: "X", str: "TEXT"}


def format_usage(flags: TrainConfig, *, program: str) -> str:
    """Write the short help of a program whose flags describe a run.

    Args:
      flags: the values that would be used; fields that `TrainConfig` lacks are the
        program's own and come first.
      program: as it is started.
    """
    lines = _format_head(type(flags), program)
    for heading, names in {"this program": _own_fields(flags), **COMMON}.items():
        lines += ["", f"{heading}:"]
        for name in names:
            owner, _, field = name.rpartition(".")
            part = _part(flags, owner)
            lines += _format_field(type(part), field, part, owner=owner, whole=False)
    lines += ["", "--help-all lists every flag, with its full description."]
    return "\n".join(lines)


def format_full_usage(flags: TrainConfig, *, program: str) -> str:
    """Write every flag of a program whose flags describe a run.

    Args:
      flags: the values that would be used.
      program: as it is started.
    """
    own = _own_fields(flags)
    lines = [*_format_head(type(flags), program), "", "this program:"]
    for name in own:
        lines += _format_field(type(flags), name, flags)
    return "\n".join([*lines, "", "run:", *_format_part(flags, "", without=own)])


def format_own_usage(flags: type[Any], *, program: str) -> str:
    """Write the help of a program with few flags, which describe no run.

    Args:
      flags: the dataclass of its flags; annotated fields are positional.
      program: as it is started.
    """
    lines = [*_format_head(flags, program), ""]
    hints = get_type_hints(flags)
    for field in dataclasses.fields(flags):
        part = hints[field.name]
        if not dataclasses.is_dataclass(part):
            lines += _format_field(flags, field.name, None)
            continue
        assert isinstance(part, type)
        for inner in dataclasses.fields(part):
            lines += _format_field(part, inner.name, None, owner=field.name)
    return "\n".join(lines)


def positional_fields(flags: type[Any]) -> list[str]:
    """List the fields of a dataclass of flags that are given without a flag."""
    hints = get_type_hints(flags, include_extras=True)
    return [name for name, kind in hints.items() if hasattr(kind, "__metadata__")]


def kind_of(hint: Any) -> Any:
    """Return a field's type without `| None`."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    is_optional = NoneType in get_args(hint)
    return kinds[0] if is_optional else hint


def _own_fields(flags: TrainConfig) -> tuple[str, ...]:
    shared = {field.name for field in dataclasses.fields(TrainConfig)}
    names = (field.name for field in dataclasses.fields(flags))
    return tuple(name for name in names if name not in shared)


def _part(flags: object, owner: str) -> Any:
    for name in filter(None, owner.split(".")):
        flags = getattr(flags, name)
    return flags


def _format_head(flags: type[Any], program: str) -> list[str]:
    needed = [name.upper() for name in positional_fields(flags)]
    lines = ["usage: " + " ".join([program, *needed, "[--FLAG=VALUE ...]"])]
    for paragraph in (inspect.getdoc(flags) or "").split("\n\n"):
        lines += ["", *_wrap(paragraph, indent=0)]
    return lines


def _format_part(part: Any, owner: str, *, without: tuple[str, ...] = ()) -> list[str]:
    """Write a part's own flags, then each part below it under its name."""
    lines, below = [], []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            name = f"{owner}.{field.name}".lstrip(".")
            about = f"{name}: {inspect.getdoc(type(value))}"
            below += ["", *_wrap(about, indent=0), *_format_part(value, name)]
        elif field.name not in without:
            lines += _format_field(type(part), field.name, part, owner=owner)
    return [*lines, *below]


def _format_field(
    cls: type[Any], field: str, part: object, *, owner: str = "", whole: bool = True
) -> list[str]:
    """Write a flag with its description: all of it, or its first clause."""
    if field in positional_fields(cls):
        head = f"  {field.upper()}"
    else:
        name = f"{owner}.{field}".lstrip(".")
        kind = kind_of(get_type_hints(cls)[field])
        head = f"  {flag_name(SHORT.get(name, name))}{_choices(kind)}"
        if kind is bool and whole:
            head += f", {negated_flag(name)}"
        if name in SHORT and whole:
            head += f", {flag_name(name)}"
    text = _describe_fields(cls)[field]
    text = text if whole else _first_clause(text)
    value = getattr(cls if part is None else part, field, None)
    if value is True:
        text += " [on]"
    elif value not in (None, "") and value is not False:
        text += f" [{value}]"
    if len(head) < _COLUMN:
        lines = _wrap(text, indent=_COLUMN)
        return [f"{head:<{_COLUMN}}{lines[0].strip()}", *lines[1:]]
    return [*_wrap(head, indent=2), *_wrap(text, indent=_COLUMN)]


def negated_flag(field: str) -> str:
    """Write the flag that switches a boolean field off."""
    room, dot, last = field.rpartition(".")
    return flag_name(f"{room}{dot}no-{last}")


def _choices(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "=" + "|".join(get_args(kind))
    return "" if kind is bool else "=" + _NAMES.get(kind, "TEXT")


def _first_clause(text: str) -> str:
    """Cut a description at its first full stop or semicolon outside of brackets."""
    text = " ".join(text.split())
    ends = (at.start() for at in re.finditer(r"[.;] ", text))
    end = next(
        (at for at in ends if text[:at].count("(") == text[:at].count(")")), None
    )
    return text[:end].rstrip(".")


def _wrap(text: str, *, indent: int) -> list[str]:
    space = " " * indent
    return textwrap.wrap(
        " ".join(text.split()),
        _WIDTH,
        initial_indent=space,
        subsequent_indent=space,
        break_on_hyphens=False,
    )


def _describe_fields(cls: type[Any]) -> dict[str, str]:
    """Read the string below each field of a dataclass, and of those it extends."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for statement, after in zip(body, body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(after, ast.Expr):
                assert isinstance(statement.target, ast.Name)
                found[statement.target.id] = ast.literal_eval(after.value)
    return found
