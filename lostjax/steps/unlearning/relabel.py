"""Random labels for what is to be forgotten.

    random_labels    uniform over all C classes, the true one too, as in SalUn's code
    other_labels     uniform over the C - 1 others

The cross entropy of such labels is a forget loss with a lower bound. Labels are redrawn
with a key of their own each epoch, so that none of them is learnt by heart:

    labels_B = random_labels(true_B, jax.random.fold_in(key, epoch), n_classes=10)

Graves, Nagisetty & Ganesh, "Amnesiac Machine Learning", 2020, arXiv:2010.10981, and
Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in
Both Image Classification and Generation", 2023, arXiv:2310.12508.
"""

import jax

from lostjax.checks import require_classes
from lostjax.typing import Array, Int, Key


def random_labels(
    labels: Int[Array, "*batch"], key: Key, *, n_classes: int
) -> Int[Array, "*batch"]:
    """Draw a label for each example among all classes.

    Args:
      labels: true classes (...), whose shape and type the result has.
      key: decides the labels; of each epoch another.
      n_classes: C, 2 or more.

    Returns:
      Classes (...), in [0, C).

    Raises:
      ValueError: n_classes is below 2.
    """
    _require_two(n_classes)
    return jax.random.randint(key, labels.shape, 0, n_classes, labels.dtype)


def other_labels(
    labels: Int[Array, "*batch"], key: Key, *, n_classes: int
) -> Int[Array, "*batch"]:
    """Draw a label for each example among all classes but its own.

    Args:
      labels: true classes (...), in [0, C).
      key: see `random_labels`.
      n_classes: C, 2 or more.

    Returns:
      Classes (...), in [0, C), none of which is the true one.

    Raises:
      ValueError: n_classes is below 2, or a known label is no class.
    """
    _require_two(n_classes)
    require_classes("labels", labels, n_classes)
    # 1 to C - 1 classes further, around the end.
    further = jax.random.randint(key, labels.shape, 1, n_classes, labels.dtype)
    return (labels + further) % n_classes


def _require_two(n_classes: int) -> None:
    if n_classes < 2:
        raise ValueError(f"n_classes={n_classes}: must be 2 or more")
