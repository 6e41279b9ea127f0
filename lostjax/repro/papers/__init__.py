"""One file or package a paper, which defines `EXPERIMENT`; adding it adds the paper.

What several papers share, data and training, is in `repro.problems`.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from lostjax.errors import ConfigError, nearest_hint

if TYPE_CHECKING:
    from lostjax.repro.experiment import Experiment


def list_papers() -> list[str]:
    """List the papers' names, which are those of their modules."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_paper(name: str) -> "Experiment[Any]":
    """Load a paper's experiment.

    Raises:
      ConfigError: if there is no such paper.
    """
    papers = list_papers()
    if name not in papers:
        hint = nearest_hint(name, papers) or "; `python -m lostjax.repro` lists them"
        raise ConfigError(f"{name}: no such paper{hint}")
    experiment: Experiment[Any]
    experiment = importlib.import_module(f"{__name__}.{name}").EXPERIMENT
    return experiment
