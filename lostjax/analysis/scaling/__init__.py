"""Scaling laws: fitted to loss curves of small models, to predict larger ones.

Two laws: loss by parameters and tokens (`fit_loss_law`), and loss by parameters, steps
and batch (`fit_step_law` and what comes before it). `python -m lostjax.scaling` fits
both to run directories.
"""

from lostjax.analysis.scaling.compute_optimal import Allocation, compute_optimal
from lostjax.analysis.scaling.forecasts import Forecast, forecast_loss
from lostjax.analysis.scaling.laws import (
    SQUARED_ERROR,
    LawPrior,
    LossFit,
    LossLaw,
    Objective,
    absolute_relative_error,
    log_huber,
    predict_loss,
)
from lostjax.analysis.scaling.loss_law import fit_loss_law, require_identified
from lostjax.analysis.scaling.points import (
    LossPoints,
    UnidentifiedLaw,
    cut_tokens,
    make_points,
    thin_points,
)
from lostjax.analysis.scaling.repeated_data import (
    PARAMETER_DECAY,
    TOKEN_DECAY,
    effective_params,
    effective_tokens,
    fit_token_decay,
    predict_repeated_loss,
)
from lostjax.analysis.scaling.step_curves import StepFit, fit_step_curves
from lostjax.analysis.scaling.step_law import (
    BatchTradeoff,
    PowerLaw,
    StepLaw,
    critical_batch,
    fit_batch_tradeoff,
    fit_critical_batch,
    fit_model_size_law,
    fit_step_law,
    min_steps,
    min_tokens,
)
from lostjax.analysis.scaling.studies import (
    Extrapolation,
    extrapolation_study,
    split_target,
)
from lostjax.analysis.scaling.trajectories import loss_trajectory
from lostjax.analysis.scaling.transfer import transfer_law

__all__ = [
    "PARAMETER_DECAY",
    "SQUARED_ERROR",
    "TOKEN_DECAY",
    "Allocation",
    "BatchTradeoff",
    "Extrapolation",
    "Forecast",
    "LawPrior",
    "LossFit",
    "LossLaw",
    "LossPoints",
    "Objective",
    "PowerLaw",
    "StepFit",
    "StepLaw",
    "UnidentifiedLaw",
    "absolute_relative_error",
    "compute_optimal",
    "critical_batch",
    "cut_tokens",
    "effective_params",
    "effective_tokens",
    "extrapolation_study",
    "fit_batch_tradeoff",
    "fit_critical_batch",
    "fit_loss_law",
    "fit_model_size_law",
    "fit_step_curves",
    "fit_step_law",
    "fit_token_decay",
    "forecast_loss",
    "log_huber",
    "loss_trajectory",
    "make_points",
    "min_steps",
    "min_tokens",
    "predict_loss",
    "predict_repeated_loss",
    "require_identified",
    "split_target",
    "thin_points",
    "transfer_law",
]
