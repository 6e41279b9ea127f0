"""Steps of learning as papers prescribe them, and their scan: pure functions."""

from lostjax.steps.ascent import ascend, move
from lostjax.steps.coteaching import (
    CoteachingState,
    init_coteaching,
    make_coteaching_step,
)
from lostjax.steps.fit import BatchAt, Fitted, Measure, Step, fit, map_runs
from lostjax.steps.gradient import Gradient, GradientOf, make_gradient
from lostjax.steps.guard import Guard, GuardState, init_guard
from lostjax.steps.objective import Term
from lostjax.steps.readings import Readings
from lostjax.steps.state import TrainState, model_variables
from lostjax.steps.step import make_eval_step, make_train_step
from lostjax.steps.terms import label_smoothing_term, log_partition_term

__all__ = [
    "BatchAt",
    "CoteachingState",
    "Fitted",
    "Gradient",
    "GradientOf",
    "Guard",
    "GuardState",
    "Measure",
    "Readings",
    "Step",
    "Term",
    "TrainState",
    "ascend",
    "fit",
    "init_coteaching",
    "init_guard",
    "label_smoothing_term",
    "log_partition_term",
    "make_coteaching_step",
    "make_eval_step",
    "make_gradient",
    "make_train_step",
    "map_runs",
    "model_variables",
    "move",
]
