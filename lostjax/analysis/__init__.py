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
from lostjax.analysis.plateau import EssentialSparsity, essential_sparsity
from lostjax.analysis.sparsity import (
    NearZero,
    apply_mask,
    erk_densities,
    erk_mask,
    magnitude_mask,
    mask_cosine,
    near_zero_count,
    nm_mask,
    random_mask,
    sparsity_of,
)
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
    "LatentComparison",
    "LatentDependence",
    "LogitGrowth",
    "NearZero",
    "Sensitivity",
    "TextBaselines",
    "VariableType",
    "apply_mask",
    "ascend",
    "ascent_rise",
    "compare_representations",
    "drop_passive",
    "effective_rank",
    "erk_densities",
    "erk_mask",
    "essential_sparsity",
    "fit_logit_growth",
    "gaussian_total_correlation",
    "gaussian_wasserstein_correlation",
    "learning_rate_sensitivity",
    "magnitude_mask",
    "mask_cosine",
    "mutual_information_matrix",
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
    "variable_types",
]
