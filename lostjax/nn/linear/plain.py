"""Linear maps without a sparse part: `Dense` and `LowRank`.

    Dense:    y = x W                          W (M, N)
    LowRank:  y = act(x a) b                   a (M, R), b (R, N)

Without an activation, `LowRank` is the plain factorisation W = a b. With
`activation=flax.linen.silu, factorize=scaled_normal_factors` it is CoLA (Liu et al.,
"CoLA: Compute-Efficient Pre-Training of LLMs via Low-Rank Activation", 2025, arXiv
2502.10940). Kernels are (in, out); there are no biases.

Cost per row: 2 M N FLOPs dense, 2 R (M + N) FLOPs low-rank.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from lostjax.nn.initializers.factorize import (
    Factorize,
    InitialMatrix,
    require_rank,
    svd_factors,
)
from lostjax.nn.initializers.variance import matching_scale
from lostjax.nn.kernels.bottleneck import (
    BottleneckProducts,
    BottleneckWeights,
    bottleneck_products,
)
from lostjax.nn.linear.projection import project
from lostjax.typing import Activation, Array, Float, Key


class Dense(nn.Module):
    """A full matrix.

    Attributes:
        features: number of outputs N.
        kernel_init: initialiser of the matrix.
        dtype: computation dtype; None promotes the dtypes of input and parameters.
        param_dtype: dtype of the parameters.
    """

    features: int
    kernel_init: Initializer = nn.initializers.normal(0.02)
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __call__(self, x: Float[Array, "... M"]) -> Float[Array, "... N"]:
        """Map x (..., M) to (..., N)."""
        return project((self,), x)[0]

    @nn.compact
    def weights(self, in_features: int) -> jax.Array:
        """Return the kernel (M, N), declaring it on first use."""
        shape = (in_features, self.features)
        kernel: jax.Array = self.param(
            "kernel", self.kernel_init, shape, self.param_dtype
        )
        return kernel

    def products(
        self, x_PM: jax.Array, siblings: Sequence[jax.Array]
    ) -> tuple[jax.Array, ...]:
        """Multiply the rows (P, M) by each kernel."""
        x_PM, *kernels = promote_dtype(x_PM, *siblings, dtype=self.dtype)
        return tuple(x_PM @ kernel_MN for kernel_MN in kernels)

    def parameter_count(self, in_features: int) -> int:
        """Return the number of trainable parameters."""
        return in_features * self.features

    def flops(self, in_features: int) -> int:
        """Return the forward FLOPs per row."""
        return 2 * in_features * self.features


class LowRank(nn.Module):
    """Two factors with an optional activation between them.

    Attributes:
        features: number of outputs N.
        rank: width R between the factors, 1 to min(M, N).
        activation: activation between the factors; None for the identity.
        factorize: function that computes the initial factors from W0 or a key.
        correct_variance: scale the initial `b` so that the output variance on unit
            Gaussian inputs, after the activation, equals that of W0.
        kernel_init: initialiser of W0.
        product: implementation of the product;
            `lostjax.nn.kernels.tpu.products.mosaic_products` uses TPU kernels.
        dtype: computation dtype; None promotes the dtypes of input and parameters.
        param_dtype: dtype of the parameters.
    """

    features: int
    rank: int
    activation: Activation | None = None
    factorize: Factorize = svd_factors
    correct_variance: bool = False
    kernel_init: Initializer = nn.initializers.normal(0.02)
    product: BottleneckProducts = bottleneck_products
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __call__(self, x: Float[Array, "... M"]) -> Float[Array, "... N"]:
        """Map x (..., M) to (..., N)."""
        return project((self,), x)[0]

    @nn.compact
    def weights(self, in_features: int) -> BottleneckWeights:
        """Return `a` (M, R) and `b` (R, N), declaring them on first use.

        Both are initialised from one key, because they are factors of one W0.
        """
        require_rank(self.rank, n_inputs=in_features, n_outputs=self.features)
        shapes = {"a": (in_features, self.rank), "b": (self.rank, self.features)}
        # Outside of `init` the factorisation would be traced and then discarded.
        started = self.is_initializing()
        start = self._start(self.make_rng("params"), in_features) if started else {}

        def declare(name: str) -> jax.Array:
            shape = shapes[name]
            parameter: jax.Array = self.param(
                name, lambda _: start.get(name, jnp.zeros(shape, self.param_dtype))
            )
            return parameter

        return BottleneckWeights(declare("a"), declare("b"))

    def products(
        self, x_PM: jax.Array, siblings: Sequence[BottleneckWeights]
    ) -> tuple[jax.Array, ...]:
        """Multiply the rows (P, M) by each pair of factors."""
        return self.product(
            x_PM, siblings, activation=self.activation, dtype=self.dtype
        )

    def parameter_count(self, in_features: int) -> int:
        """Return the number of trainable parameters."""
        require_rank(self.rank, n_inputs=in_features, n_outputs=self.features)
        return self.rank * (in_features + self.features)

    def flops(self, in_features: int) -> int:
        """Return the forward FLOPs per row."""
        return 2 * self.parameter_count(in_features)

    def _start(self, key: Key, in_features: int) -> dict[str, jax.Array]:
        key_dense, key_factors, key_sample = jax.random.split(key, 3)
        dense_MN = self.kernel_init(key_dense, (in_features, self.features))
        factors = self.factorize(key_factors, InitialMatrix(dense_MN, self.rank))
        weights = BottleneckWeights(*factors)
        if self.correct_variance:
            scale = matching_scale(
                key_sample, dense_MN, weights=weights, activation=self.activation
            )
            weights = weights.scaled(scale)
        return {
            "a": weights.a_MR.astype(self.param_dtype),
            "b": weights.b_RN.astype(self.param_dtype),
        }
