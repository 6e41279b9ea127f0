"""LOST: a low-rank matrix with an activation, plus a few whole input channels.

    y = gamma act(x a) b + (1 - gamma) x_I values

a is (M, R), b (R, N), values (C, N), and I the C = max(1, floor(delta M)) kept input
channels (Li et al., "LOST: Low-rank and Sparse Pre-training for Large Language Models",
2025, arXiv 2508.02668). All are initialised from one matrix W0: a and b split its best
rank-r approximation, I are the channels with the largest residual, and the values are
rows of W0. I is fixed during training: int32 indices, sorted and unique, in the
collection `channels`, which is not differentiated.

Options that the paper does not have: a learnt gamma (one unbounded scalar), an initial
variance correction after the activation, channels in groups of equal size, and other
choices of factors and channels, as controls.

Cost: R (M + N) + C N parameters and twice as many forward FLOPs per row. With a rank of
a quarter of the width and delta = .01 this is .35 of a dense MLP matrix.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from lostjax.nn.initializers.channels import (
    ChannelScores,
    count_channels,
    require_groups,
    residual_norm_channels,
    select_channels,
)
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
from lostjax.nn.linear.projection import project, require_channels
from lostjax.typing import Activation, Array, Float, Key


class LowRankSparse(nn.Module):
    """A low-rank part and a channel-sparse part in one product (LOST).

    Attributes:
        features: number of outputs N.
        rank: width R between the factors, 1 to min(M, N).
        delta: share of input channels to keep, in [0, 1]; 0 for no sparse part.
        gamma: weight of the low-rank part, in [0, 1]; the sparse part has 1 - gamma.
        learn_gamma: train gamma, with `gamma` as the initial value.
        activation: activation between the factors; None for the identity.
        factorize: function that computes the initial factors from W0 or a key.
        choose_channels: function that scores the input channels; the highest-scored
            channels are kept.
        correct_variance: scale the initial `b` and kept values so that the output
            variance on unit Gaussian inputs equals that of W0.
        channel_groups: number of contiguous groups of inputs with equal numbers of kept
            channels; must divide the rank. If it is a multiple of the number of devices
            over which M or R is sharded, no row of x is sent between devices.
        kernel_init: initialiser of W0.
        product: implementation of the product;
            `lostjax.nn.kernels.tpu.products.mosaic_products` uses TPU kernels.
        dtype: computation dtype; None promotes the dtypes of input and parameters.
        param_dtype: dtype of the parameters.
    """

    features: int
    rank: int
    delta: float = 0.01
    gamma: float = 0.7
    learn_gamma: bool = False
    activation: Activation | None = nn.silu
    factorize: Factorize = svd_factors
    choose_channels: ChannelScores = residual_norm_channels
    correct_variance: bool = False
    channel_groups: int = 1
    kernel_init: Initializer = nn.initializers.normal(0.02)
    product: BottleneckProducts = bottleneck_products
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32

    def __call__(self, x: Float[Array, "... M"]) -> Float[Array, "... N"]:
        """Map x (..., M) to (..., N)."""
        return project((self,), x)[0]

    @nn.compact
    def weights(self, in_features: int) -> BottleneckWeights:
        """Return `a`, `b`, `values`, `kept` and `gamma`, declaring them on first use.

        All are initialised from one key, because they are derived from one W0.
        """
        shapes = self._shapes(in_features)
        # Outside of `init` the decomposition would be traced and then discarded.
        started = self.is_initializing()
        start = self._start(self.make_rng("params"), in_features) if started else {}

        def declare(name: str) -> jax.Array:
            parameter: jax.Array = self.param(
                name,
                lambda _: start.get(name, jnp.zeros(shapes[name], self.param_dtype)),
            )
            return parameter

        weights = BottleneckWeights(declare("a"), declare("b"), gamma=self.gamma)
        if "values" in shapes:
            require_channels(self, "kept")
            kept = self.variable("channels", "kept", start.get, "kept")
            weights = weights._replace(values_CN=declare("values"), kept_C=kept.value)
        if self.learn_gamma:
            weights = weights._replace(gamma=declare("gamma"))
        return weights

    def products(
        self, x_PM: jax.Array, siblings: Sequence[BottleneckWeights]
    ) -> tuple[jax.Array, ...]:
        """Multiply the rows (P, M) by each sibling's factors and kept values."""
        return self.product(
            x_PM,
            siblings,
            activation=self.activation,
            channel_groups=self.channel_groups,
            dtype=self.dtype,
        )

    def parameter_count(self, in_features: int) -> int:
        """Return the number of trainable parameters; kept indices are not included."""
        return self.flops(in_features) // 2 + self.learn_gamma

    def flops(self, in_features: int) -> int:
        """Return the forward FLOPs per row."""
        n_kept = self._count_kept(in_features)
        narrow = self.rank * (in_features + self.features)
        return 2 * (narrow + n_kept * self.features)

    def _shapes(self, in_features: int) -> dict[str, tuple[int, ...]]:
        n_kept = self._count_kept(in_features)
        shapes: dict[str, tuple[int, ...]] = {
            "a": (in_features, self.rank),
            "b": (self.rank, self.features),
            "values": (n_kept, self.features),
            "gamma": (),
        }
        return shapes if n_kept else {k: v for k, v in shapes.items() if k != "values"}

    def _count_kept(self, in_features: int) -> int:
        require_rank(self.rank, n_inputs=in_features, n_outputs=self.features)
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma={self.gamma} is not within 0 to 1")
        n_kept = count_channels(in_features, self.delta)
        if self.gamma == 0 and not n_kept and not self.learn_gamma:
            raise ValueError(
                f"gamma=0 and delta={self.delta} keep neither the low-rank nor the "
                "sparse part; the outputs would be 0: raise one of them"
            )
        if n_kept:
            require_groups(self.channel_groups, n_inputs=in_features, n_channels=n_kept)
            if self.rank % self.channel_groups:
                raise ValueError(
                    f"channel_groups={self.channel_groups} does not divide "
                    f"rank={self.rank}"
                )
        return n_kept

    def _start(self, key: Key, in_features: int) -> dict[str, jax.Array]:
        key_dense, key_factors, key_channels, key_sample = jax.random.split(key, 4)
        dense_MN = self.kernel_init(key_dense, (in_features, self.features))
        initial = InitialMatrix(dense_MN, self.rank)
        factors = self.factorize(key_factors, initial)
        weights = BottleneckWeights(*factors, gamma=self.gamma)
        if n_kept := self._count_kept(in_features):
            kept_C = select_channels(
                self.choose_channels(key_channels, initial),
                n_channels=n_kept,
                groups=self.channel_groups,
            )
            # Rows of W0 itself: unscaled, because (1 - gamma) is applied at every use.
            weights = weights._replace(kept_C=kept_C, values_CN=dense_MN[kept_C])
        if self.correct_variance:
            weights = weights.scaled(
                matching_scale(
                    key_sample, dense_MN, weights=weights, activation=self.activation
                )
            )
        weights = weights.astype(self.param_dtype)
        gamma = jnp.asarray(self.gamma, self.param_dtype)
        start = {"a": weights.a_MR, "b": weights.b_RN, "gamma": gamma}
        if weights.kept_C is None or weights.values_CN is None:
            return start
        return start | {"values": weights.values_CN, "kept": weights.kept_C}
