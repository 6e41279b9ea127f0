"""Measurements of parameters, activations, training curves and text."""

from lostjax.analysis.attribution import (
    PathScores,
    ReagentResult,
    attention_rollout,
    attention_scores,
    gradient_norm,
    gradient_times_input,
    host_probs,
    integrated_gradients,
    lime_scores,
    ngram_sampler,
    normalised_comprehensiveness,
    normalised_sufficiency,
    occlusion_scores,
    rank_scores,
    reagent,
    soft_comprehensiveness,
    soft_sufficiency,
    uniform_sampler,
    unigram_sampler,
)
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
    "PathScores",
    "ReagentResult",
    "Sensitivity",
    "TextBaselines",
    "ascend",
    "ascent_rise",
    "attention_rollout",
    "attention_scores",
    "fit_logit_growth",
    "gradient_norm",
    "gradient_times_input",
    "host_probs",
    "integrated_gradients",
    "learning_rate_sensitivity",
    "lime_scores",
    "ngram_sampler",
    "normalised_comprehensiveness",
    "normalised_sufficiency",
    "occlusion_scores",
    "predict_max_logit",
    "predict_ngram",
    "random_rise",
    "reagent",
    "relative_penalty",
    "rank_scores",
    "score_text",
    "soft_comprehensiveness",
    "soft_sufficiency",
    "tensor_rms",
    "uniform_sampler",
    "unigram_sampler",
]
