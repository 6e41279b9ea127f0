"""Losses and weights: how wrong an answer is, and how much an example counts."""

from lostjax.losses.bounded import generalized_cross_entropy_loss
from lostjax.losses.contrastive import info_nce_loss, simple_contrastive_loss
from lostjax.losses.language import (
    log_partition_penalty,
    next_token_loss,
    smoothing_penalty,
)
from lostjax.losses.metric_learning import (
    proto_triplet_loss,
    prototypes,
    prototypical_logits,
    set_icnn_loss,
    set_icnn_score,
)
from lostjax.losses.overlap import (
    dice_loss,
    multiclass_dice_loss,
    set_dice_loss,
    set_tversky_loss,
)
from lostjax.losses.reduce import sequence_means, weighted_mean, weighted_sums
from lostjax.losses.robust import (
    hard_negative_mask,
    kl_dro_weights,
    set_kl_dro_loss,
    small_loss_mask,
)
from lostjax.losses.spherical import (
    LogitSums,
    spherical_softmax_loss,
    spherical_softmax_loss_from_sums,
    spherical_squared_error,
    spherical_squared_error_from_sums,
    sum_logits,
    taylor_softmax_loss,
    taylor_softmax_loss_from_sums,
    z_loss,
    z_loss_from_sums,
)
from lostjax.losses.survival.cox import breslow_survival, set_cox_loss
from lostjax.losses.survival.hazard import (
    DiscreteTimes,
    discretize_times,
    hazard_loss,
    survival_curve,
)
from lostjax.losses.token_weights import (
    surprisal_weights,
    surprisal_weights_of_losses,
)
from lostjax.losses.trajectory import (
    TopOutputs,
    compress_outputs,
    compressed_trajectory_loss,
    trajectory_loss,
)
from lostjax.losses.unlearning.divergence import (
    Divergence,
    DivergenceTerms,
    flat_loss,
    jeffreys_divergence,
    jensen_shannon_divergence,
    kl_divergence,
    mean_token_probability,
    neyman_divergence,
    pearson_divergence,
    reverse_kl_divergence,
    squared_hellinger,
    total_variation,
)
from lostjax.losses.unlearning.preference import (
    direct_preference_loss,
    gradient_difference,
    negative_preference_loss,
    simple_npo_loss,
)
from lostjax.losses.variational import standard_normal_divergence
from lostjax.losses.weighting import (
    Shape,
    extremes,
    lin_upper,
    quadratic,
    sample_weights,
    temperature_schedule,
    upper,
)

__all__ = [
    "DiscreteTimes",
    "Divergence",
    "DivergenceTerms",
    "LogitSums",
    "Shape",
    "TopOutputs",
    "breslow_survival",
    "compress_outputs",
    "compressed_trajectory_loss",
    "dice_loss",
    "direct_preference_loss",
    "discretize_times",
    "extremes",
    "flat_loss",
    "generalized_cross_entropy_loss",
    "gradient_difference",
    "hard_negative_mask",
    "hazard_loss",
    "info_nce_loss",
    "jeffreys_divergence",
    "jensen_shannon_divergence",
    "kl_divergence",
    "kl_dro_weights",
    "lin_upper",
    "log_partition_penalty",
    "mean_token_probability",
    "multiclass_dice_loss",
    "negative_preference_loss",
    "next_token_loss",
    "neyman_divergence",
    "pearson_divergence",
    "proto_triplet_loss",
    "prototypes",
    "prototypical_logits",
    "quadratic",
    "reverse_kl_divergence",
    "sample_weights",
    "sequence_means",
    "set_cox_loss",
    "set_dice_loss",
    "set_icnn_loss",
    "set_icnn_score",
    "set_kl_dro_loss",
    "set_tversky_loss",
    "simple_contrastive_loss",
    "simple_npo_loss",
    "small_loss_mask",
    "smoothing_penalty",
    "spherical_softmax_loss",
    "spherical_softmax_loss_from_sums",
    "spherical_squared_error",
    "spherical_squared_error_from_sums",
    "squared_hellinger",
    "standard_normal_divergence",
    "sum_logits",
    "surprisal_weights",
    "surprisal_weights_of_losses",
    "survival_curve",
    "taylor_softmax_loss",
    "taylor_softmax_loss_from_sums",
    "temperature_schedule",
    "total_variation",
    "trajectory_loss",
    "upper",
    "weighted_mean",
    "weighted_sums",
    "z_loss",
    "z_loss_from_sums",
]
