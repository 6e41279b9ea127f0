"""The short help: the flags that people use most, by group, one or two lines each."""

import ast
import dataclasses
import inspect
import textwrap
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lostjax.train.config.fields import flag_name, get_field
from lostjax.train.config.schema import TrainConfig

COMMON: dict[str, tuple[str, ...]] = {
    "run": ("preset", "run_dir", "mesh", "steps", "batch_size", "seed"),
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


def format_usage(flags: TrainConfig, *, program: str) -> str:
    """Write the short help of a program whose flags describe a run.

    Args:
      flags: the values that would be used; fields that `TrainConfig` lacks are the
        program's own and come first.
      program: as it is started.
    """
    shared = {field.name for field in dataclasses.fields(TrainConfig)}
    own = [f.name for f in dataclasses.fields(flags) if f.name not in shared]
    lines = [f"usage: {program} [--FLAG=VALUE ...]"]
    for paragraph in (inspect.getdoc(type(flags)) or "").split("\n\n"):
        lines += ["", *_wrap(paragraph, indent=0)]
    for heading, names in {"this program": tuple(own), **COMMON}.items():
        lines += ["", f"{heading}:"]
        for name in names:
            lines += _format_flag(flags, name)
    lines += ["", "--help-all lists every flag, with its full description."]
    return "\n".join(lines)


def _format_flag(flags: TrainConfig, name: str) -> list[str]:
    owner, _, field = name.rpartition(".")
    cls = type(get_field(flags, owner)) if owner else type(flags)
    value = get_field(flags, name)
    head = f"  {flag_name(SHORT.get(name, name))}{_choices(cls, field)}"
    text = _first_sentence(_describe_fields(cls)[field])
    if value not in (None, False, ""):
        text += f" [{value}]"
    if len(head) < _COLUMN:
        lines = _wrap(text, indent=_COLUMN)
        return [f"{head:<{_COLUMN}}{lines[0].strip()}", *lines[1:]]
    return [head, *_wrap(text, indent=_COLUMN)]


def _choices(cls: type[Any], field: str) -> str:
    kind = get_type_hints(cls)[field]
    if get_origin(kind) is Literal:
        return "=" + "|".join(get_args(kind))
    return "" if kind is bool else "=" + _NAMES.get(kind, "TEXT")


_NAMES = {int: "N", float: "X"}


def _first_sentence(text: str) -> str:
    """Cut a description at the end of its first clause."""
    end = min(f"{text} {mark}".index(mark) for mark in (". ", "; ", ": "))
    return " ".join(text[:end].split()).rstrip(".")


def _wrap(text: str, *, indent: int) -> list[str]:
    space = " " * indent
    return textwrap.wrap(
        text,
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
