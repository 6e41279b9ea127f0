"""The trainer, from Python: `run` trains, `load` opens a run, `preset` configures one.

    import lostjax
    run = lostjax.train.run(lostjax.train.preset("smoke", steps=50))
    run.plot()
    print(run.generate("Fellow citizens,"))

`python -m lostjax.train` is the same trainer from a command line. Importing this module
imports nothing heavy: each name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lostjax.extras import explain_missing

if TYPE_CHECKING:
    from lostjax.train.interface.configuration import preset
    from lostjax.train.interface.finished import Run, load
    from lostjax.train.interface.training import Stopped, run

__all__ = ["Run", "Stopped", "load", "preset", "run"]

_MODULES = {
    "Run": "finished",
    "Stopped": "training",
    "load": "finished",
    "preset": "configuration",
    "run": "training",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        if reason := explain_missing():
            raise ModuleNotFoundError(f"lostjax.train {reason}")
        module = importlib.import_module(f"lostjax.train.interface.{_MODULES[name]}")
        return getattr(module, name)
    raise AttributeError(f"module 'lostjax.train' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
