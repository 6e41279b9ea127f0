"""lostjax: memory-efficient language-model training in JAX.

The rooms are `lostjax.nn` (layers and models), `lostjax.losses`, `lostjax.metrics`,
`lostjax.optim` (optax transformations), `lostjax.data` (text to batches),
`lostjax.steps` (pure training steps), `lostjax.analysis`, `lostjax.train` (the trainer)
and `lostjax.plan` (whether a run fits). `python -m lostjax` lists the programs.
`import lostjax` imports no room: each is imported when it is first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_ROOMS = (
    "analysis",
    "data",
    "losses",
    "metrics",
    "nn",
    "optim",
    "plan",
    "steps",
    "train",
)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"lostjax.{name}")
    raise AttributeError(f"module 'lostjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
