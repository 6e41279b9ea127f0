"""Products of narrow matrices: y_i = [gamma act(x A_i), (1 - gamma) x_I_i] [B_i; W_i].

A low-rank matrix and a few whole input channels form one bottleneck of width r + k,
whose last k units are unchanged inputs. Each sibling i (the query, key and value maps
of one attention) has its own factors and channels, but x is read once: all A_i form one
product and all I_i one gather; then there is one product per sibling.

The reasons for this form are times of forward and backward pass, measured on a busy
2-core x86 CPU at six shapes from 256x704 to 5461x2048:

- One product of width r + k takes .68 to 1.0 of the time of two products and a sum.
- A plain gather (backward: scatter-add) is within .01 of the fastest variant at five
  shapes. The alternatives are one-hot columns joined to A, a one-hot product backward,
  inverse indices backward, and a joint backward product. They take .99 to 1.34 of its
  time at these shapes and .82 to .99 at the sixth, 1024x2736: too small a gain to
  justify a custom derivative.
- One product of all A_i takes .7 to 1.06 of the time of separate products. The A_i are
  stacked on a new axis and not concatenated: if R is sharded over devices, each device
  then keeps its own piece of every A_i.

Under tensor sharding with G channel groups, [R | C] is laid out group by group. A
device that holds 1/G of x, of the rows of A and of the rows of the values gathers and
joins its own; only arrays of width r, r + k or N are communicated.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from lostjax.typing import Activation, Array, Float, Int

save_bottlenecks = jax.checkpoint_policies.save_only_these_names("bottleneck", "kept")
"""`jax.checkpoint` policy that saves only x A (before the activation) and x_I.

All arrays of the model's width are recomputed, as in CoLA-M (arXiv 2502.10940).
"""


class BottleneckWeights(NamedTuple):
    """Weights of one matrix; values and indices are None without kept channels."""

    a_MR: jax.Array
    b_RN: jax.Array
    values_CN: jax.Array | None = None
    kept_C: jax.Array | None = None
    gamma: jax.Array | float = 1.0

    def astype(self, dtype: DTypeLike) -> "BottleneckWeights":
        """Cast all factors of products; gamma keeps its dtype."""
        values_CN = None if self.values_CN is None else self.values_CN.astype(dtype)
        return self._replace(
            a_MR=self.a_MR.astype(dtype),
            b_RN=self.b_RN.astype(dtype),
            values_CN=values_CN,
        )

    def scaled(self, scale: jax.Array) -> "BottleneckWeights":
        """Scale the output, which is linear in `b` and the kept values."""
        values_CN = None if self.values_CN is None else scale * self.values_CN
        return self._replace(b_RN=scale * self.b_RN, values_CN=values_CN)


BottleneckProducts = Callable[..., tuple[jax.Array, ...]]
"""An implementation of the product, with the signature of `bottleneck_products`.

Others are `lostjax.nn.kernels.tpu.products.mosaic_products`, which uses TPU kernels,
and `lostjax.nn.kernels.sharded.ShardedProducts`, which runs any of them on a mesh.
"""


def bottleneck_products(
    x_PM: Float[Array, "P M"],
    siblings: Sequence[BottleneckWeights],
    *,
    activation: Activation | None,
    channel_groups: int = 1,
    dtype: DTypeLike | None = None,
    complete: Callable[[jax.Array], jax.Array] = lambda h_PR: h_PR,
) -> tuple[jax.Array, ...]:
    """Multiply the same rows by sibling matrices of equal rank and channel count.

    Args:
        x_PM: rows (P, M).
        siblings: weights of the matrices; either all or none have kept channels.
        activation: activation between the factors; None for the identity.
        channel_groups: number of groups of inputs with equal numbers of kept channels.
        dtype: computation dtype; None promotes the dtypes of rows and weights.
        complete: function applied to x A before the activation. If x and A are shards
            of a larger product, it sums x A over devices.

    Returns:
        One array (P, N_i) per sibling.
    """
    dtype = jnp.result_type(x_PM, siblings[0].a_MR) if dtype is None else dtype
    x_PM = x_PM.astype(dtype)
    siblings = [weights.astype(dtype) for weights in siblings]
    sets = [weights.kept_C for weights in siblings if weights.kept_C is not None]
    through_SPC = _gather(x_PM, sets, groups=channel_groups) if sets else []
    outputs = []
    for index, h_PR in enumerate(_down(x_PM, [weights.a_MR for weights in siblings])):
        # Named before the activation, whose gradient needs this value.
        weights, h_PR = siblings[index], _label(complete(h_PR), "bottleneck")
        narrow_PR = weights.gamma * (activation(h_PR) if activation else h_PR)
        if weights.values_CN is None:
            # A learnt gamma is float32 and would promote bfloat16 rows.
            outputs.append(narrow_PR.astype(dtype) @ weights.b_RN)
            continue
        through_PC = (1 - weights.gamma) * through_SPC[index]
        # Concatenating narrow operands is cheap; one product replaces two and a sum.
        narrow_PK = _join(narrow_PR, through_PC, axis=1, groups=channel_groups)
        wide_KN = _join(weights.b_RN, weights.values_CN, axis=0, groups=channel_groups)
        outputs.append(narrow_PK.astype(dtype) @ wide_KN)
    return tuple(outputs)


def _join(
    ranks: jax.Array, channels: jax.Array, *, axis: int, groups: int
) -> jax.Array:
    # Ranks and channels of a group are adjacent: sharded over groups, nothing moves.
    def split(x: jax.Array) -> jax.Array:
        grouped = (groups, x.shape[axis] // groups)
        return x.reshape(*x.shape[:axis], *grouped, *x.shape[axis + 1 :])

    joined = jnp.concatenate([split(ranks), split(channels)], axis=axis + 1)
    return jax.lax.collapse(joined, axis, axis + 2)


def _down(
    x_PM: Float[Array, "P M"], factors: Sequence[jax.Array]
) -> Sequence[jax.Array]:
    if len(factors) == 1:
        return [x_PM @ factors[0]]
    # A new axis S, not a longer R: see the module docstring.
    stacked_MSR = jnp.stack(factors, axis=1)
    hidden_PSR = jnp.einsum("pm,msr->psr", x_PM, stacked_MSR)
    return [hidden_PSR[:, index] for index in range(len(factors))]


def _gather(
    x_PM: Float[Array, "P M"], sets: Sequence[Int[Array, "C"]], *, groups: int
) -> Sequence[jax.Array]:
    # x and the indices share the axis of groups: sharded, each gathers its own inputs.
    kept_SGC = jnp.stack(sets).reshape(len(sets), groups, -1)
    width = x_PM.shape[1] // groups
    local_SGC = kept_SGC - width * jnp.arange(groups, dtype=jnp.int32)[:, None]
    local_GK = jnp.swapaxes(local_SGC, 0, 1).reshape(groups, -1)

    def take(x_Pm: jax.Array, local_K: jax.Array) -> jax.Array:
        # Clip: the default mode fills with NaN. The hints speed up the backward
        # scatter; they hold for one sibling only, because siblings may share channels.
        alone = len(sets) == 1
        return jnp.take(
            x_Pm, local_K, axis=1, mode="clip",
            unique_indices=alone, indices_are_sorted=alone,
        )  # fmt: skip

    x_PGm = x_PM.reshape(-1, groups, width)
    kept_PGK = jax.vmap(take, in_axes=(1, 0), out_axes=1)(x_PGm, local_GK)
    kept_PGSC = kept_PGK.reshape(-1, groups, len(sets), local_SGC.shape[2])
    each_PGC = [kept_PGSC[:, :, index] for index in range(len(sets))]
    return [_label(jax.lax.collapse(x_PGC, 1), "kept") for x_PGC in each_PGC]


def _label(x: jax.Array, name: str) -> jax.Array:
    labelled: jax.Array = checkpoint_name(x, name)
    return labelled
