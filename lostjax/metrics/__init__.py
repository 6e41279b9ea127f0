"""Scores of a whole set of answers, without a gradient."""

from lostjax.metrics.censoring import Censoring, fit_censoring
from lostjax.metrics.classification import (
    balanced_accuracy,
    class_f1,
    confusion_matrix,
    macro_f1,
    matthews_correlation,
    micro_f1,
)
from lostjax.metrics.language import bits_per_byte, perplexity
from lostjax.metrics.membership import membership_auc
from lostjax.metrics.probabilities import (
    accuracy,
    brier_score,
    error_rate,
    expected_calibration_error,
    top_k_accuracy,
)
from lostjax.metrics.ranking import average_precision, roc_auc
from lostjax.metrics.representation import alignment, tolerance, uniformity
from lostjax.metrics.survival import (
    censored_brier_score,
    concordance_index,
    integrated_brier_score,
    uno_concordance_index,
)

__all__ = [
    "Censoring",
    "accuracy",
    "alignment",
    "average_precision",
    "balanced_accuracy",
    "bits_per_byte",
    "brier_score",
    "censored_brier_score",
    "class_f1",
    "concordance_index",
    "confusion_matrix",
    "error_rate",
    "expected_calibration_error",
    "fit_censoring",
    "integrated_brier_score",
    "macro_f1",
    "matthews_correlation",
    "membership_auc",
    "micro_f1",
    "perplexity",
    "roc_auc",
    "tolerance",
    "top_k_accuracy",
    "uniformity",
    "uno_concordance_index",
]
