"""Measurements of what exists: parameters, activations, curves, text."""

from lostjax.analysis.flatness import ascend, ascent_rise, random_rise
from lostjax.analysis.stability import (
    LOGIT_LIMIT,
    LogitGrowth,
    Sensitivity,
    fit_logit_growth,
    learning_rate_sensitivity,
    predict_max_logit,
    tensor_rms,
)
from lostjax.analysis.text_baselines import TextBaselines, predict_ngram, score_text

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
    "score_text",
    "tensor_rms",
]
