"""lostjax: memory-efficient language-model training in JAX.

The rooms: `lostjax.nn` (layers and models), `lostjax.losses`, `lostjax.metrics`,
`lostjax.optim` (optax transformations), `lostjax.data` (text to batches),
`lostjax.steps` (a step's scan), `lostjax.analysis`, `lostjax.train` (the trainer:
`python -m lostjax.train`). `import lostjax` imports none of them: each is imported
when it is first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_ROOMS = ("analysis", "data", "losses", "metrics", "nn", "optim", "steps")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"lostjax.{name}")
    raise AttributeError(f"module 'lostjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
