"""SLTrain: a low-rank matrix plus a random sparse matrix, added up at every use.

    W = (alpha / r) a b + S,     y = x W

The support of S is random and fixed, with floor(delta M N) entries (Han et al.,
"SLTrain: a sparse plus low-rank approach for parameter and memory efficient
pretraining", 2024, arXiv 2406.02214). As in the authors' code, a is initialised Kaiming
uniform, b zero, and S uniform in +-1/sqrt(M). SLTrain saves parameters and optimiser
state but no computation: as in the authors' code, the forward pass builds the dense W,
and the backward pass its dense gradient.

Cost: R (M + N) + nnz parameters, 2 M N forward FLOPs per row, and 2 R M N FLOPs per
step to build W.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike

from lostjax.nn.initializers.factorize import require_rank
from lostjax.nn.initializers.support import sample_support
from lostjax.nn.linear.projection import project, require_channels
from lostjax.typing import Array, Float


class SLTrainWeights(NamedTuple):
    """The factors, the sparse values and their indices in the flattened matrix."""

    a_MR: jax.Array
    b_RN: jax.Array
    values: jax.Array | None
    support: jax.Array | None


class SLTrain(nn.Module):
    """A low-rank matrix plus a sparse matrix with a random support.

    Attributes:
        features: number of outputs N.
        rank: width R between the factors, 1 to min(M, N).
        delta: share of entries in the support, in [0, 1]; 0 for no sparse part.
        alpha: the low-rank part is scaled by alpha / rank.
        dtype: computation dtype; None promotes the dtypes of input and parameters.
        param_dtype: dtype of the parameters.
    """

    features: int
    rank: int
    delta: float = 0.03
    alpha: float = 16.0
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __call__(self, x: Float[Array, "... M"]) -> Float[Array, "... N"]:
        """Map x (..., M) to (..., N)."""
        return project((self,), x)[0]

    @nn.compact
    def weights(self, in_features: int) -> SLTrainWeights:
        """Return `a` (M, R), `b` (R, N), `values` (nnz,) and `support` (nnz,).

        The parameters are declared on first use.
        """
        n_entries = self._count_entries(in_features)
        # U(+-1/sqrt(M)), the distribution of torch's kaiming_uniform_ with a = sqrt(5).
        kaiming = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        bound = in_features**-0.5

        def uniform(key: jax.Array) -> jax.Array:
            return jax.random.uniform(
                key, (n_entries,), self.param_dtype, minval=-bound, maxval=bound
            )

        def support() -> jax.Array:
            # Drawn once: the collection `channels` is not updated by the optimiser.
            size = in_features * self.features
            key = self.make_rng("params")
            return sample_support(key, size=size, n_entries=n_entries)

        dtype = self.param_dtype
        zeros = nn.initializers.zeros
        a_MR = self.param("a", kaiming, (in_features, self.rank), dtype)
        b_RN = self.param("b", zeros, (self.rank, self.features), dtype)
        if not n_entries:
            return SLTrainWeights(a_MR, b_RN, None, None)
        values = self.param("values", uniform)
        require_channels(self, "support")
        places = self.variable("channels", "support", support).value
        return SLTrainWeights(a_MR, b_RN, values, places)

    def products(
        self, x_PM: jax.Array, siblings: Sequence[SLTrainWeights]
    ) -> tuple[jax.Array, ...]:
        """Build each matrix and multiply the rows (P, M) by it."""
        return tuple(self._product(x_PM, weights) for weights in siblings)

    def parameter_count(self, in_features: int) -> int:
        """Return the number of trainable parameters; the support is not one."""
        narrow = self.rank * (in_features + self.features)
        return narrow + self._count_entries(in_features)

    def flops(self, in_features: int) -> int:
        """Return the forward FLOPs per row, without those that build W."""
        return 2 * in_features * self.features

    def _product(self, x_PM: jax.Array, weights: SLTrainWeights) -> jax.Array:
        x_PM, a_MR, b_RN, values = promote_dtype(x_PM, *weights[:3], dtype=self.dtype)
        # Flat indices: one int32 per entry instead of two.
        dense_MN = (self.alpha / self.rank) * (a_MR @ b_RN)
        if weights.support is not None:
            places = dense_MN.reshape(-1).at[weights.support]
            # Sorted, unique indices: XLA can scatter without handling conflicts.
            flat = places.add(values, indices_are_sorted=True, unique_indices=True)
            dense_MN = flat.reshape(dense_MN.shape)
        y_PN: jax.Array = x_PM @ dense_MN
        return y_PN

    def _count_entries(self, in_features: int) -> int:
        require_rank(self.rank, n_inputs=in_features, n_outputs=self.features)
        if not 0 <= self.delta <= 1:
            raise ValueError(f"delta={self.delta} is not within 0 to 1")
        # floor(.29 * 100) is 28 in floating point; the tolerance makes it 29.
        return math.floor(self.delta * in_features * self.features + 1e-9)
