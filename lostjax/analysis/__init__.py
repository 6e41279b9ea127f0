"""Measurements of parameters, activations, training curves and text."""

from lostjax.analysis.contrastive import relative_penalty
from lostjax.analysis.flatness import ascent_rise, random_rise
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
    "LogitGrowth",
    "Sensitivity",
    "TextBaselines",
    "ascend",
    "ascent_rise",
    "fit_logit_growth",
    "learning_rate_sensitivity",
    "predict_max_logit",
    "predict_ngram",
    "random_rise",
    "relative_penalty",
    "score_text",
    "tensor_rms",
]
