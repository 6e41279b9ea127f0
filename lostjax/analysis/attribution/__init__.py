"""Attribution: how much each token of a prompt counts for the next one.

Every function takes the model as a callable of one of two signatures.

    token_probs_fn(tokens_BT) -> probs_BV             the token after each row
    logits_from_embeddings(x_TD) -> logits_V          the same of one embedded row

Both must be traceable by JAX; `host_probs` wraps a function of another framework.
"""

from lostjax.analysis.attribution.attention import attention_rollout, attention_scores
from lostjax.analysis.attribution.faithfulness import (
    normalised_comprehensiveness,
    normalised_sufficiency,
    rank_scores,
    soft_comprehensiveness,
    soft_sufficiency,
)
from lostjax.analysis.attribution.gradients import (
    PathScores,
    gradient_norm,
    gradient_times_input,
    integrated_gradients,
)
from lostjax.analysis.attribution.perturbation import lime_scores, occlusion_scores
from lostjax.analysis.attribution.probabilities import host_probs
from lostjax.analysis.attribution.reagent import ReagentResult, reagent
from lostjax.analysis.attribution.samplers import (
    ngram_sampler,
    uniform_sampler,
    unigram_sampler,
)

__all__ = [
    "PathScores",
    "ReagentResult",
    "attention_rollout",
    "attention_scores",
    "gradient_norm",
    "gradient_times_input",
    "host_probs",
    "integrated_gradients",
    "lime_scores",
    "ngram_sampler",
    "normalised_comprehensiveness",
    "normalised_sufficiency",
    "occlusion_scores",
    "reagent",
    "rank_scores",
    "soft_comprehensiveness",
    "soft_sufficiency",
    "uniform_sampler",
    "unigram_sampler",
]
