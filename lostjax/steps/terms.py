"""Terms of the training objective besides cross entropy."""

import optax

from lostjax.losses import log_partition_penalty, smoothing_penalty
from lostjax.steps.gradient import Term


def log_partition_term(weight: float) -> Term:
    """Penalise the squared log-partition of every position."""
    return Term(
        lambda state, prepared, targets_BT, logits_BTV: log_partition_penalty(
            logits_BTV
        ),
        optax.constant_schedule(weight),
    )


def label_smoothing_term(share: float) -> Term:
    """Give a share of the targets to all tokens alike."""
    return Term(
        lambda state, prepared, targets_BT, logits_BTV: smoothing_penalty(
            logits_BTV, targets_BT
        ),
        optax.constant_schedule(share),
    )
