"""Lottery masks: weights are removed a few at a time, each time after new training.

    theta_r = train(theta_0, mask_(r-1)),    mask_r = the (1 - s_r) n largest of theta_r

Every round trains from the same early weights theta_0, to which it rewinds, and keeps
the weights that a mask removed at zero. The first mask is therefore the one-shot mask
of the trained model; later ones differ from it as far as training differs without the
weights that are gone.

Frankle & Carbin, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural
Networks", 2019, arXiv:1803.03635; weights of an early step and not of the start:
Frankle, Dziugaite, Roy & Carbin, "Linear Mode Connectivity and the Lottery Ticket
Hypothesis", 2020, arXiv:1912.05671. Cost: a training run a round.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax

from lostjax.analysis.sparsity.masks import apply_mask, magnitude_mask
from lostjax.optim.splitting.matrices import MatricesOrRule
from lostjax.typing import PyTree

TrainMasked = Callable[[PyTree, PyTree], PyTree]
"""From weights to start from, zero where the mask removes them, and the mask to trained
weights; see `optim.mask_updates`."""


class LotteryRound(NamedTuple):
    """A round of training and pruning."""

    sparsity: float
    """Share of the weights that its mask removes."""
    params: PyTree
    """Weights that were trained under the mask of the round before."""
    mask: PyTree
    """The mask of largest absolute values among them."""


def lottery_masks(
    train: TrainMasked,
    rewound: PyTree,
    *,
    sparsities: Sequence[float | int],
    matrices: MatricesOrRule | None = None,
) -> Iterator[LotteryRound]:
    """Prune a model in rounds of training, each from the same early weights.

    Args:
      train: trains weights under a mask.
      rewound: the early weights that every round starts from.
      sparsities: share of the weights removed after each round, rising, in (0, 1).
      matrices: see `magnitude_mask`.

    Yields:
      Each round, as soon as it is trained; masks are nested.

    Raises:
      ValueError: if there are no sparsities, they do not rise within (0, 1), or there
        is no matrix.

    Example:
      for sparsity, params, mask in lottery_masks(train, early, sparsities=[0.2, 0.36]):
          print(sparsity, mask_cosine(mask, magnitude_mask(dense, sparsity)))
    """
    steps = [0.0, *sparsities, 1.0]
    if len(steps) < 3 or any(a >= b for a, b in zip(steps, steps[1:], strict=False)):
        raise ValueError(f"sparsities={list(sparsities)}: must rise within (0, 1)")
    return _prune(train, rewound, sparsities=sparsities, matrices=matrices)


def _prune(
    train: TrainMasked,
    rewound: PyTree,
    *,
    sparsities: Sequence[float | int],
    matrices: MatricesOrRule | None,
) -> Iterator[LotteryRound]:
    mask = jax.tree.map(lambda _: True, rewound)
    for sparsity in sparsities:
        trained = train(apply_mask(rewound, mask), mask)
        # Applied again: zeros are the smallest, so the next mask removes them first,
        # even if the training moved them.
        mask = magnitude_mask(apply_mask(trained, mask), sparsity, matrices=matrices)
        yield LotteryRound(float(sparsity), trained, mask)
