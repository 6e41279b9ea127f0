"""Terms of the training objective in addition to the cross entropy."""

import optax

from lostjax.losses import log_partition_penalty, smoothing_penalty
from lostjax.steps.objective import Term


def log_partition_term(weight: float) -> Term:
    """Build a term that penalises the squared log-partition function of every position.

    Args:
      weight: constant weight of the term.
    """
    return Term(
        lambda state, prepared, targets_BT, logits_BTV: log_partition_penalty(
            logits_BTV
        ),
        optax.constant_schedule(weight),
    )


def label_smoothing_term(share: float) -> Term:
    """Build a term that spreads a share of each target uniformly over all tokens.

    Args:
      share: the share a, in [0, 1).
    """
    return Term(
        lambda state, prepared, targets_BT, logits_BTV: smoothing_penalty(
            logits_BTV, targets_BT
        ),
        optax.constant_schedule(share),
    )
