"""Steps of learning as papers prescribe them, and their scan: pure functions."""

from lostjax.steps.fit import BatchAt, Fitted, Measure, Step, fit, map_runs
from lostjax.steps.gradient import Gradient, GradientOf, make_gradient
from lostjax.steps.guard import Guard, GuardState, init_guard
from lostjax.steps.objective import Term
from lostjax.steps.readings import Readings
from lostjax.steps.robust.adversarial import (
    AdversarialState,
    Attack,
    AttackedBatch,
    AttackedLosses,
    Respond,
    Weigh,
    Weighed,
    init_adversarial,
    make_adversarial_step,
    respond_at,
    weigh_alike,
    weigh_hard,
)
from lostjax.steps.robust.ascent import (
    Ball,
    Barrier,
    ValueOf,
    ascend,
    barrier_ascent,
    euclidean_ball,
    max_ball,
    move,
    projected_ascent,
)
from lostjax.steps.robust.black_box import square_attack
from lostjax.steps.robust.coteaching import (
    CoteachingState,
    LossesOf,
    init_coteaching,
    make_coteaching_step,
)
from lostjax.steps.state import TrainState, model_variables
from lostjax.steps.step import make_eval_step, make_train_step
from lostjax.steps.terms import label_smoothing_term, log_partition_term
from lostjax.steps.unlearning.diffusion import (
    DiffusionBatch,
    PredictNoise,
    make_diffusion_forget_step,
)
from lostjax.steps.unlearning.forget import (
    ExampleLosses,
    ForgetBatch,
    Settle,
    UnlearningState,
    init_unlearning,
    make_forget_step,
    soft_threshold,
)
from lostjax.steps.unlearning.relabel import other_labels, random_labels

__all__ = [
    "AdversarialState",
    "Attack",
    "AttackedBatch",
    "AttackedLosses",
    "Ball",
    "Barrier",
    "BatchAt",
    "CoteachingState",
    "DiffusionBatch",
    "ExampleLosses",
    "Fitted",
    "ForgetBatch",
    "Gradient",
    "GradientOf",
    "Guard",
    "GuardState",
    "LossesOf",
    "Measure",
    "PredictNoise",
    "Readings",
    "Respond",
    "Settle",
    "Step",
    "Term",
    "TrainState",
    "UnlearningState",
    "ValueOf",
    "Weigh",
    "Weighed",
    "ascend",
    "barrier_ascent",
    "euclidean_ball",
    "fit",
    "init_adversarial",
    "init_coteaching",
    "init_guard",
    "init_unlearning",
    "label_smoothing_term",
    "log_partition_term",
    "make_adversarial_step",
    "make_coteaching_step",
    "make_diffusion_forget_step",
    "make_eval_step",
    "make_forget_step",
    "make_gradient",
    "make_train_step",
    "map_runs",
    "max_ball",
    "model_variables",
    "move",
    "other_labels",
    "projected_ascent",
    "random_labels",
    "respond_at",
    "soft_threshold",
    "square_attack",
    "weigh_alike",
    "weigh_hard",
]
