"""FLOPs of a model's matrix products, computed from its sizes alone.

    FLOPs        2 per multiply-add of a matrix product, nothing else
    training     3 x forward: the backward pass has two products for each forward one

Each linear map counts itself (`flops`). Attention scores are counted as XLA's full
T x T square, although half of it is masked: 4 T D FLOPs per token and layer. Not
counted: embedding look-ups, recomputation under a `remat` policy and, for SLTrain, the
product that builds W once per step. The low-rank and sparse parts of LOST are counted
as one product of width r + k; selecting x_I is a gather and costs no FLOPs.
"""

from typing import NamedTuple

from lostjax.nn.parameters import linear_maps
from lostjax.nn.transformer import Transformer


class Flops(NamedTuple):
    """FLOPs of matrix products per token of a forward pass, by part."""

    linear: int
    """The seven matrices of all layers."""
    scores: int
    """Attention scores and weighted sums of values, for a row of T tokens."""
    head: int

    @property
    def forward(self) -> int:
        """Return the FLOPs of the forward pass."""
        return self.linear + self.scores + self.head

    @property
    def train(self) -> int:
        """Return the FLOPs of the forward and the backward pass."""
        return 3 * self.forward


def count_flops(model: Transformer, *, length: int) -> Flops:
    """Count the FLOPs of matrix products per token.

    Args:
        model: the model; it is not initialised.
        length: tokens per row, T >= 1.

    Returns:
        The counts by part.

    Raises:
        ValueError: if `length` is less than 1.
    """
    if length < 1:
        raise ValueError(f"length={length}: must be at least 1")
    per_layer = sum(
        layer.flops(n_inputs) for layer, n_inputs in linear_maps(model).values()
    )
    return Flops(
        linear=model.n_layers * per_layer,
        scores=model.n_layers * 4 * length * model.d_model,
        head=2 * model.d_model * model.vocab_size,
    )
