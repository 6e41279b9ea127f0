"""Plan a run from Python: whether it fits some hardware, and what limits its speed.

    import lostjax
    target = lostjax.plan.find_target("v5e:4x4")
    plan = lostjax.plan.make_plan(lostjax.train.preset("lost_1b"), target)
    plan.memory.fits, plan.memory.peak, plan.times.step

`python -m lostjax.plan` is the same from a command line. Importing this module imports
nothing heavy: each name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lostjax.extras import explain_missing

if TYPE_CHECKING:
    from lostjax.plan.estimate import make_plan
    from lostjax.plan.needs import Memory, Plan, Times
    from lostjax.plan.table import compare_plans, note_plans
    from lostjax.plan.targets import Target, find_target

__all__ = [
    "Memory",
    "Plan",
    "Target",
    "Times",
    "compare_plans",
    "find_target",
    "make_plan",
    "note_plans",
]

_MODULES = {
    "Memory": "needs",
    "Plan": "needs",
    "Target": "targets",
    "Times": "needs",
    "compare_plans": "table",
    "find_target": "targets",
    "make_plan": "estimate",
    "note_plans": "table",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        if reason := explain_missing():
            raise ModuleNotFoundError(f"lostjax.plan {reason}")
        module = importlib.import_module(f"lostjax.plan.{_MODULES[name]}")
        return getattr(module, name)
    raise AttributeError(f"module 'lostjax.plan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
