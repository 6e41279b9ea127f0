"""Time of an output layer's training step, as ratios to the dense log-softmax.

    python benchmarks/factored_output.py [--classes 10000,100000,400000] [--width 128]

A step takes inputs (B, D) and one target a row, computes the loss, its gradient by the
inputs, and updates the layer by plain gradient descent:

    log-softmax       all V logits of a dense layer: 6 B V D FLOPs, and every weight is
                      read and written
    sampled softmax   the targets and 512 classes drawn anew, logits corrected by their
                      log expected counts (Jean et al., 2015, arXiv:1412.2007)
    hierarchical      two levels: a group of about sqrt(V) classes, then the class in
                      it (Goodman, 2001, arXiv:cs/0108006)
    Z-loss, dense     the Z-loss of a dense layer
    Z-loss, factored  the same step by `optim.factored_output`, with its share of
                      `stabilise` every 500 steps

Every form runs in one process, in turn, with donated buffers; the fastest repetition
counts. Sampled and hierarchical softmax are other objectives: only their cost is
compared here.
"""

import argparse
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from timing import fastest_in_turn

from lostjax import losses
from lostjax.optim import factored_output

RATE, DRAWN, STABILISE_EVERY = 0.1, 512, 500
Step = Callable[[Any, jax.Array, jax.Array, jax.Array], tuple[Any, jax.Array]]
"""(state, x_BD, targets_B, key) -> state, gradient by x."""


def softmax_step(
    weights_VD: jax.Array, x_BD: jax.Array, targets_B: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Step a dense layer under log-softmax."""
    del key
    return _dense_step(losses.next_token_loss, weights_VD, x_BD, targets_B)


def z_loss_step(
    weights_VD: jax.Array, x_BD: jax.Array, targets_B: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Step a dense layer under the Z-loss."""
    del key
    return _dense_step(losses.z_loss, weights_VD, x_BD, targets_B)


def _dense_step(
    loss: Callable[..., jax.Array],
    weights_VD: jax.Array,
    x_BD: jax.Array,
    targets_B: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    def mean_loss(weights_VD: jax.Array, x_BD: jax.Array) -> jax.Array:
        return jnp.mean(loss(x_BD @ weights_VD.T, targets_B))

    slope_VD, slope_BD = jax.grad(mean_loss, argnums=(0, 1))(weights_VD, x_BD)
    return weights_VD - RATE * slope_VD, slope_BD


def sampled_step(
    weights_VD: jax.Array, x_BD: jax.Array, targets_B: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Step the targets' rows and those of classes drawn log-uniformly."""
    n_classes = len(weights_VD)
    uniform_S = jax.random.uniform(key, (DRAWN,))
    drawn_S = jnp.int32((n_classes + 1) ** uniform_S) - 1
    drawn_S = jnp.clip(drawn_S, 0, n_classes - 1)

    def log_count(ids: jax.Array) -> jax.Array:
        share = jnp.log1p(1 / (ids + 1.0)) / math.log(n_classes + 1)
        return jnp.log(DRAWN * share)

    def mean_loss(own_BD: jax.Array, others_SD: jax.Array, x_BD: jax.Array) -> Any:
        own_B = jnp.sum(own_BD * x_BD, -1) - log_count(targets_B)
        others_BS = x_BD @ others_SD.T - log_count(drawn_S)
        others_BS = jnp.where(drawn_S == targets_B[:, None], -jnp.inf, others_BS)
        logits = jnp.concatenate([own_B[:, None], others_BS], -1)
        return jnp.mean(jax.nn.logsumexp(logits, -1) - own_B)

    slopes = jax.grad(mean_loss, argnums=(0, 1, 2))(
        weights_VD[targets_B], weights_VD[drawn_S], x_BD
    )
    weights_VD = weights_VD.at[targets_B].add(-RATE * slopes[0])
    return weights_VD.at[drawn_S].add(-RATE * slopes[1]), slopes[2]


class Levels(NamedTuple):
    """A two-level softmax: groups, and the classes of each."""

    groups_GD: jax.Array
    classes_GCD: jax.Array


def hierarchical_step(
    levels: Levels, x_BD: jax.Array, targets_B: jax.Array, key: jax.Array
) -> tuple[Levels, jax.Array]:
    """Step all groups, and the classes of the targets' groups."""
    del key
    group_B, class_B = jnp.divmod(targets_B, levels.classes_GCD.shape[1])

    def mean_loss(groups_GD: jax.Array, own_BCD: jax.Array, x_BD: jax.Array) -> Any:
        of_groups_B = losses.next_token_loss(x_BD @ groups_GD.T, group_B)
        logits_BC = jnp.einsum("bcd,bd->bc", own_BCD, x_BD)
        return jnp.mean(of_groups_B + losses.next_token_loss(logits_BC, class_B))

    slopes = jax.grad(mean_loss, argnums=(0, 1, 2))(
        levels.groups_GD, levels.classes_GCD[group_B], x_BD
    )
    classes_GCD = levels.classes_GCD.at[group_B].add(-RATE * slopes[1])
    return Levels(levels.groups_GD - RATE * slopes[0], classes_GCD), slopes[2]


def factored_step(
    state: factored_output.State, x_BD: jax.Array, targets_B: jax.Array, key: jax.Array
) -> tuple[factored_output.State, jax.Array]:
    """Step the factored layer under the Z-loss."""
    del key
    targets_BK = targets_B[:, None]

    def mean_loss(sums: factored_output.Sums) -> jax.Array:
        of = losses.LogitSums(sums.targets_BK[:, 0], sums.total_B, sums.squares_B)
        return jnp.mean(losses.z_loss_from_sums(of, n_classes=len(state.rows_VD)))

    sums = factored_output.forward(state, x_BD, targets_BK=targets_BK)
    return factored_output.backward_update(
        state,
        x_BD,
        targets_BK=targets_BK,
        slopes=jax.grad(mean_loss)(sums),
        learning_rate=RATE,
    )


def make_states(n_classes: int, width: int) -> dict[str, tuple[Step, Any]]:
    """Make every form's step and its first state."""
    key = jax.random.key(0)
    scale = 1 / math.sqrt(width)
    weights_VD = scale * jax.random.normal(key, (n_classes, width))
    n_groups = math.isqrt(n_classes - 1) + 1
    levels = Levels(
        scale * jax.random.normal(key, (n_groups, width)),
        scale * jax.random.normal(key, (n_groups, -(-n_classes // n_groups), width)),
    )
    factored = factored_output.centre(factored_output.init(weights_VD))
    return {
        "log-softmax": (softmax_step, weights_VD),
        "sampled softmax": (sampled_step, weights_VD.copy()),
        "hierarchical": (hierarchical_step, levels),
        "Z-loss, dense": (z_loss_step, weights_VD.copy()),
        "Z-loss, factored": (factored_step, jax.tree.map(jnp.copy, factored)),
    }


def time_forms(
    n_classes: int, *, width: int, batch: int, repeat: int
) -> dict[str, float]:
    """Time one step of every form, in seconds."""
    x_BD = jax.random.normal(jax.random.key(1), (batch, width))
    targets_B = jax.random.randint(jax.random.key(2), (batch,), 0, n_classes)
    key = jax.random.key(3)
    states: dict[str, Any] = {}

    def step_once(name: str, step: Step) -> None:
        states[name], slope_BD = step(states[name], x_BD, targets_B, key)
        jax.block_until_ready((states[name], slope_BD))

    calls = {}
    for name, (step, state) in make_states(n_classes, width).items():
        states[name] = state
        compiled = jax.jit(step, donate_argnums=0)
        calls[name] = functools.partial(step_once, name, compiled)
    stabilise = jax.jit(factored_output.stabilise, donate_argnums=0)

    def stabilise_once() -> None:
        states["Z-loss, factored"] = stabilise(states["Z-loss, factored"])
        jax.block_until_ready(states["Z-loss, factored"])

    calls["stabilise"] = stabilise_once
    seconds = fastest_in_turn(calls, repeat=repeat)
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(states)):
        raise SystemExit(f"{n_classes} classes: a form's weights are not finite")
    share = seconds.pop("stabilise") / STABILISE_EVERY
    return seconds | {"Z-loss, factored": seconds["Z-loss, factored"] + share}


def main() -> None:
    """Time the sizes asked for and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", default="10000,100000,400000")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=20)
    options = parser.parse_args()
    kind = jax.devices()[0].device_kind
    print(f"{kind}, width {options.width}, {options.batch} rows a step\n")
    print("| classes | form | ms a step | log-softmax takes, times as long |")
    print("| ---: | --- | ---: | ---: |")
    for n_classes in map(int, options.classes.split(",")):
        seconds = time_forms(
            n_classes, width=options.width, batch=options.batch, repeat=options.repeat
        )
        for form, taken in seconds.items():
            ratio = seconds["log-softmax"] / taken
            print(f"| {n_classes:,} | {form} | {1e3 * taken:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
