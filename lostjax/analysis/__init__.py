"""Measurements of parameters, activations, training curves and text."""

from lostjax.analysis.contrastive import relative_penalty
from lostjax.analysis.flatness import ascent_rise, random_rise
from lostjax.analysis.ngrams import predict_ngram
from lostjax.analysis.sparsity.counts import (
    NearZero,
    mask_cosine,
    near_zero_count,
    sparsity_of,
)
from lostjax.analysis.sparsity.masks import (
    apply_mask,
    erk_densities,
    erk_mask,
    magnitude_mask,
    nm_mask,
    random_mask,
)
from lostjax.analysis.sparsity.plateau import EssentialSparsity, essential_sparsity
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
    "EssentialSparsity",
    "LogitGrowth",
    "NearZero",
    "Sensitivity",
    "TextBaselines",
    "apply_mask",
    "ascend",
    "ascent_rise",
    "erk_densities",
    "erk_mask",
    "essential_sparsity",
    "fit_logit_growth",
    "learning_rate_sensitivity",
    "magnitude_mask",
    "mask_cosine",
    "near_zero_count",
    "nm_mask",
    "predict_max_logit",
    "predict_ngram",
    "random_mask",
    "random_rise",
    "relative_penalty",
    "score_text",
    "sparsity_of",
    "tensor_rms",
]
