"""A linear output layer trained at a cost that does not depend on its V classes.

    W = R U + 1 c^T                  R: V x D,  U: D x D,  c: D
    o = W x                          logits that are never computed
    q = sum_v o_v^2 = x^T Q x        Q = W^T W
    s = sum_v o_v   = x^T w          w = W^T 1

A loss of the spherical family reads only the logits of some targets, s and q. Its
gradient by the logits is dL/ds + 2 o dL/dq plus a sparse part, so a step of plain
gradient descent changes W by a product from the right, a shift common to all rows, and
the targets' rows: it changes U, c and a few rows of R, and Q and w follow in closed
form. Vincent et al., "Efficient Exact Gradient Update for training Deep Networks with
Very Large Sparse Targets", 2014, arXiv:1412.7091; de Brebisson & Vincent, "The Z-loss:
a shift and scale invariant classification loss belonging to the Spherical Family",
2016, arXiv:1604.08859. Ours differs in two ways from the code of the first
(github.com/pascal20100/factored_output_layer): weight decay reaches Q and w as well,
and `stabilise` computes all factors anew instead of repairing singular values of U one
by one, since only that corrects what Q has lost to rounding.

Only plain gradient descent has this form, and the learning rate is an argument of the
backward pass. For a bias append a constant feature to x.

    sums = forward(state, x_BD, targets_BK=ids)
    slopes = jax.grad(lambda sums: loss(sums).mean())(sums)
    state, slope_BD = backward_update(
        state, x_BD, targets_BK=ids, slopes=slopes, learning_rate=0.1
    )

Cost: for a batch of B, about 12 B D^2 multiplications, B^2 K^2 comparisons of targets
and a solve of B equations; 4 D (V + 3 D) bytes. `stabilise` costs V D^2.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from lostjax.typing import Array, Float, Int, Scalar

Given = ParamSpec("Given")
Made = TypeVar("Made")


def _precise(of: Callable[Given, Made]) -> Callable[Given, Made]:
    """Multiply in float32: TPUs round to bfloat16 by default, and errors add up."""

    @functools.wraps(of)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        with jax.default_matmul_precision("highest"):
            return of(*args, **kwargs)

    return run


class State(NamedTuple):
    """The factors of the weights, and what follows from the weights."""

    rows_VD: Float[Array, "V D"]
    """R, of which each step changes the targets' rows."""
    mix_DD: Float[Array, "D D"]
    """U, which acts on all rows."""
    inverse_DD: Float[Array, "D D"]
    """The transposed inverse of U."""
    shift_D: Float[Array, "D"]
    """c, which is added to all rows."""
    gram_DD: Float[Array, "D D"]
    """Q = W^T W."""
    total_D: Float[Array, "D"]
    """w, the sum of all rows of W."""


class Sums(NamedTuple):
    """What a spherical loss reads of the logits; or its gradients by them."""

    targets_BK: Float[Array, "B K"]
    """Logits of the targets."""
    total_B: Float[Array, "B"]
    """Sum of all logits."""
    squares_B: Float[Array, "B"]
    """Sum of the squares of all logits."""


@_precise
def init(weights_VD: Float[Array, "V D"]) -> State:
    """Factor the weights of an output layer.

    Args:
      weights_VD: W, one row for each class (V, D); kept in float32.

    Returns:
      A state whose `dense_weights` are these.
    """
    weights_VD = weights_VD.astype(jnp.float32)
    eye_DD = jnp.eye(weights_VD.shape[1])
    return State(
        rows_VD=weights_VD,
        mix_DD=eye_DD,
        inverse_DD=eye_DD,
        shift_D=jnp.zeros(weights_VD.shape[1]),
        gram_DD=weights_VD.T @ weights_VD,
        total_D=jnp.sum(weights_VD, axis=0),
    )


@_precise
def dense_weights(state: State) -> Float[Array, "V D"]:
    """Compute the weights W, at a cost of V D^2.

    Args:
      state: the layer.

    Returns:
      W (V, D), float32.
    """
    return state.rows_VD @ state.mix_DD + state.shift_D


def stabilise(state: State) -> State:
    """Compute all factors anew from the weights, at a cost of V D^2.

    Every update adds rounding errors to U's inverse and to Q, and U's condition grows.
    Call this every few hundred steps; `jnp.linalg.cond(state.mix_DD)` above 10, or
    training that diverges, says that it was too seldom.

    Args:
      state: the layer.

    Returns:
      A state with the same weights, U the identity and c zero.
    """
    return init(dense_weights(state))


def centre(state: State) -> State:
    """Subtract the mean row from all rows, at a cost of D^2.

    A loss that ignores a shift of the logits, as the Z-loss, stays the same; its
    variance q / V - (s / V)^2 keeps its digits if the mean is 0. A gradient of such a
    loss leaves the mean row alone, so that one call after `init` is enough.

    Args:
      state: the layer.

    Returns:
      A state whose rows have mean 0.
    """
    mean_D = state.total_D / len(state.rows_VD)
    # W^T W minus V times the mean's outer product: exact as W has mean `mean_D`.
    gram_DD = state.gram_DD - jnp.outer(state.total_D, mean_D)
    return state._replace(
        shift_D=state.shift_D - mean_D,
        gram_DD=gram_DD,
        total_D=jnp.zeros_like(state.total_D),
    )


@_precise
def forward(
    state: State, x_BD: Float[Array, "B D"], *, targets_BK: Int[Array, "B K"]
) -> Sums:
    """Compute the logits of targets, and sums over all logits.

    Args:
      state: the layer.
      x_BD: inputs of the layer (B, D); computed in float32.
      targets_BK: classes in [0, V) of each example, (B, K); one may occur twice.

    Returns:
      Logits and sums, float32. For the losses of `lostjax.losses` with one target:
      `LogitSums(sums.targets_BK[:, 0], sums.total_B, sums.squares_B)`.
    """
    x_BD = x_BD.astype(jnp.float32)
    rows_BKD = _take_rows(state, targets_BK)
    own_BK = jnp.einsum("bkd,bd->bk", rows_BKD, x_BD @ state.mix_DD.T)
    return Sums(
        own_BK + (x_BD @ state.shift_D)[:, None],
        x_BD @ state.total_D,
        jnp.sum(x_BD * (x_BD @ state.gram_DD), axis=-1),
    )


@_precise
def backward_update(
    state: State,
    x_BD: Float[Array, "B D"],
    *,
    targets_BK: Int[Array, "B K"],
    slopes: Sums,
    learning_rate: Scalar,
    weight_decay: Scalar = 0.0,
) -> tuple[State, Float[Array, "B D"]]:
    """Compute the gradient by the inputs, and take a step of gradient descent.

    The step is W - learning_rate (G^T x + weight_decay W), G the gradient of the loss
    by all logits.

    Args:
      state: the layer.
      x_BD: inputs of the layer (B, D), as in `forward`.
      targets_BK: classes in [0, V) of each example (B, K), as in `forward`.
      slopes: gradients of the loss by the result of `forward`.
      learning_rate: eta >= 0. The step is not finite if I - eta x^T diag(2 dL/dq) x is
        singular.
      weight_decay: lambda >= 0, with eta lambda < 1.

    Returns:
      The state after the step, and the gradient of the loss before it by `x_BD`.
    """
    x_BD = x_BD.astype(jnp.float32)
    slope_BK, total_B, curve_B = slopes.targets_BK, slopes.total_B, 2 * slopes.squares_B
    keep = 1 - learning_rate * weight_decay
    rate = learning_rate / keep
    scaled_BD = curve_B[:, None] * x_BD
    # Gradients by the inputs: of the sparse part and the sum, then of the squares.
    rows_BKD = _take_rows(state, targets_BK)
    sparse_BD = jnp.einsum("bk,bkd->bd", slope_BK, rows_BKD) @ state.mix_DD
    mass_B = jnp.sum(slope_BK, axis=-1)
    sparse_BD += jnp.outer(mass_B, state.shift_D) + jnp.outer(total_B, state.total_D)
    curved_BD = curve_B[:, None] * (x_BD @ state.gram_DD)
    slope_BD = curved_BD + sparse_BD
    mix_DD = state.mix_DD - rate * (state.mix_DD @ x_BD.T) @ scaled_BD
    # Woodbury: B equations instead of D.
    system_BB = jnp.eye(len(x_BD)) - rate * x_BD @ scaled_BD.T
    solved_BD = jnp.linalg.solve(system_BB, x_BD)
    inverse_DD = state.inverse_DD + rate * (state.inverse_DD @ scaled_BD.T) @ solved_BD
    inverse_DD = inverse_DD / keep
    change_B = curve_B * (x_BD @ state.shift_D) + total_B
    shift_D = keep * state.shift_D - learning_rate * change_B @ x_BD
    # The sparse part must pass through the new U: R U changes by slope x^T.
    step_BKD = slope_BK[..., None] * (x_BD @ inverse_DD.T)[:, None]
    rows_VD = state.rows_VD.at[targets_BK].add(-learning_rate * step_BKD)
    change_B = len(state.rows_VD) * total_B + curve_B * (x_BD @ state.total_D) + mass_B
    outer_BB = _gram_of_slopes(state, x_BD, sparse_BD, targets_BK, slopes)
    cross_DD = slope_BD.T @ x_BD
    gram_DD = keep**2 * state.gram_DD - keep * learning_rate * (cross_DD + cross_DD.T)
    gram_DD = gram_DD + learning_rate**2 * x_BD.T @ outer_BB @ x_BD
    after = State(
        rows_VD=rows_VD,
        mix_DD=keep * mix_DD,
        inverse_DD=inverse_DD,
        shift_D=shift_D,
        gram_DD=gram_DD,
        total_D=keep * state.total_D - learning_rate * change_B @ x_BD,
    )
    return after, slope_BD


def _gram_of_slopes(
    state: State,
    x_BD: jax.Array,
    sparse_BD: jax.Array,
    targets_BK: jax.Array,
    slopes: Sums,
) -> jax.Array:
    """Compute G G^T, the products of the logits' gradients of two examples."""
    slope_BK, total_B = slopes.targets_BK, slopes.total_B
    scaled_BD = 2 * slopes.squares_B[:, None] * x_BD
    mass_B = jnp.sum(slope_BK, axis=-1)
    cross_BB = scaled_BD @ sparse_BD.T + jnp.outer(total_B, mass_B)
    same_BKBK = targets_BK[:, :, None, None] == targets_BK
    shared_BB = jnp.einsum("bk,bkcl,cl->bc", slope_BK, same_BKBK * 1.0, slope_BK)
    both_BB = len(state.rows_VD) * jnp.outer(total_B, total_B) + shared_BB
    return scaled_BD @ state.gram_DD @ scaled_BD.T + cross_BB + cross_BB.T + both_BB


def _take_rows(state: State, targets_BK: jax.Array) -> jax.Array:
    # A class that does not exist shows as NaN, instead of as the last one.
    ids = jnp.where(targets_BK < 0, len(state.rows_VD), targets_BK)
    return state.rows_VD.at[ids].get(mode="fill", fill_value=jnp.nan)
