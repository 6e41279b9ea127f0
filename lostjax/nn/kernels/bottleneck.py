"""Products of narrow matrices: y_i = [gamma act(x A_i), (1 - gamma) x_I_i] [B_i; W_i].

A low-rank matrix and a few whole input channels make one bottleneck of width r + k,
whose last k units are inputs passed through as they are. Each sibling i (the query, key
and value of one attention) has factors and channels of its own, but x is read once: the
A_i form one product and the I_i one gather, then every sibling has one product.

Why this form, as timed forward and backward on a busy 2-core x86 CPU, six shapes from
256x704 to 5461x2048:

- One product of width r + k takes .68 to 1.0 of the time of two products and a sum.
- A plain gather (backward: scatter-add) is within .01 of the fastest at five shapes.
  One-hot columns joined to A, a one-hot product backward, inverse indices backward and
  a joint backward product take .99 to 1.34 of its time there, .82 to .99 at the sixth,
  1024x2736: too little for a derivative rule.
- One product of the siblings' A_i takes .7 to 1.06 of the time of separate ones. They
  are stacked on an axis of their own, never laid end to end: where R is sharded over
  devices every one of them keeps its piece.

Under tensor sharding with G channel groups, [R | C] is laid out group by group: a
device that holds a G-th of x, of A's rows and of the values' rows gathers and joins its
own, and only arrays of width r, r + k or N travel.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from lostjax.typing import Activation, Array, Float, Int

save_bottlenecks = jax.checkpoint_policies.save_only_these_names("bottleneck", "kept")
"""The `jax.checkpoint` policy that keeps x A (before the activation) and x_I alone.

Everything as wide as the model is computed again: CoLA-M's lever (arXiv 2502.10940).
"""


class BottleneckWeights(NamedTuple):
    """Factors of one matrix and, if it keeps channels, those beside them."""

    a_MR: jax.Array
    b_RN: jax.Array
    values_CN: jax.Array | None = None
    kept_C: jax.Array | None = None
    gamma: jax.Array | float = 1.0

    def astype(self, dtype: DTypeLike) -> "BottleneckWeights":
        """Cast what is multiplied; a learnt gamma stays as it is."""
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
"""A way to compute what `bottleneck_products` means, with its call.

Others are `lostjax.nn.kernels.tpu.products.mosaic_products`, which has TPU kernels, and
`lostjax.nn.kernels.sharded.ShardedProducts`, which puts any of them on a mesh.
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
    """Apply sibling matrices of one rank and one number of channels to the same rows.

    Args:
        x_PM: the rows.
        siblings: their weights; all keep channels, or none does.
        activation: what stands between the factors; None for nothing.
        channel_groups: groups of inputs that hold equal numbers of kept channels.
        dtype: type to compute in; None takes the wider of rows and weights.
        complete: applied to x A before anything else, where x and A are pieces of
            larger ones and their product is to be summed over devices.

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
        weights, h_PR = siblings[index], _label(complete(h_PR), "bottleneck")
        narrow_PR = weights.gamma * (activation(h_PR) if activation else h_PR)
        if weights.values_CN is None:
            # A learnt gamma is float32, whatever the rows are.
            outputs.append(narrow_PR.astype(dtype) @ weights.b_RN)
            continue
        through_PC = (1 - weights.gamma) * through_SPC[index]
        narrow_PK = _join(narrow_PR, through_PC, axis=1, groups=channel_groups)
        wide_KN = _join(weights.b_RN, weights.values_CN, axis=0, groups=channel_groups)
        outputs.append(narrow_PK.astype(dtype) @ wide_KN)
    return tuple(outputs)


def _join(
    ranks: jax.Array, channels: jax.Array, *, axis: int, groups: int
) -> jax.Array:
    # Each group's ranks lie beside its channels: sharded over groups, no piece moves.
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
    stacked_MSR = jnp.stack(factors, axis=1)
    hidden_PSR = jnp.einsum("pm,msr->psr", x_PM, stacked_MSR)
    return [hidden_PSR[:, index] for index in range(len(factors))]


def _gather(
    x_PM: Float[Array, "P M"], sets: Sequence[Int[Array, "C"]], *, groups: int
) -> Sequence[jax.Array]:
    # Groups are an axis that rows and indices share: sharded, each gathers its own.
    kept_SGC = jnp.stack(sets).reshape(len(sets), groups, -1)
    width = x_PM.shape[1] // groups
    local_SGC = kept_SGC - width * jnp.arange(groups, dtype=jnp.int32)[:, None]
    local_GK = jnp.swapaxes(local_SGC, 0, 1).reshape(groups, -1)

    def take(x_Pm: jax.Array, local_K: jax.Array) -> jax.Array:
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
