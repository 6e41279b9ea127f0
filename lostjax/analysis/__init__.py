"""Measurements of parameters, activations, training curves and text."""

from lostjax.analysis.contrastive import relative_penalty
from lostjax.analysis.flatness import ascent_rise, random_rise
from lostjax.analysis.latents import (
    LatentComparison,
    LatentDependence,
    VariableType,
    compare_representations,
    drop_passive,
    effective_rank,
    gaussian_total_correlation,
    gaussian_wasserstein_correlation,
    mutual_information_matrix,
    variable_types,
)
from lostjax.analysis.ngrams import predict_ngram
from lostjax.analysis.stability import (
    LOGIT_LIMIT,
    LogitGrowth,
    Sensitivity,
    fit_logit_growth,
    learning_rate_sensitivity,
    predict_max_logit,
)
from lostjax.analysis.text_baselines import TextBaselines, score_text
from lostjax.steps.robust.ascent import ascend
from lostjax.trees import tensor_rms

__all__ = [
    "LOGIT_LIMIT",
    "LatentComparison",
    "LatentDependence",
    "LogitGrowth",
    "Sensitivity",
    "TextBaselines",
    "VariableType",
    "ascend",
    "ascent_rise",
    "compare_representations",
    "drop_passive",
    "effective_rank",
    "fit_logit_growth",
    "gaussian_total_correlation",
    "gaussian_wasserstein_correlation",
    "learning_rate_sensitivity",
    "mutual_information_matrix",
    "predict_max_logit",
    "predict_ngram",
    "random_rise",
    "relative_penalty",
    "score_text",
    "tensor_rms",
    "variable_types",
]
