"""Fault injection into a run, to test its guard: `--guard.fault`.

    nan@7,inf@9,gradient@12,spike@15        kind @ batch, batches counted from 1

    nan, inf    the loss and the whole gradient become that number
    gradient    the gradient of the head becomes infinite; the loss is unchanged
    spike       the guard sees a loss 1000 nats higher; the gradient is unchanged

The number of a batch equals the number of its step unless the run has rolled back.
Faults serve to test a cluster and its alarms as well as this library. If no faults are
configured, none are compiled into the step.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from lostjax.errors import ConfigError
from lostjax.numerals import read_whole
from lostjax.steps.gradient import Gradient, GradientOf
from lostjax.steps.state import TrainState
from lostjax.typing import Batch, PyTree

KINDS = ("nan", "inf", "gradient", "spike")
SPIKE = 1000.0
"""Height of an injected spike, in nats."""
HEAD = "head"
"""Subtree of the parameters whose gradient a `gradient` fault makes infinite."""

Faults = Mapping[str, tuple[int, ...]]
"""Mapping from kind to batch numbers, counted from 1."""


def parse_faults(text: str) -> Faults:
    """Parse the text of faults, such as `nan@7,spike@15`.

    Args:
      text: comma-separated `KIND@BATCH`; empty for no faults.

    Returns:
      Batches by kind.

    Raises:
      ConfigError: if an entry is not a fault.
    """
    faults: dict[str, tuple[int, ...]] = {}
    for each in filter(None, text.split(",")):
        kind, _, text_of_batch = each.partition("@")
        batch = read_whole(text_of_batch, least=1)
        if kind not in KINDS or batch is None:
            raise ConfigError(
                f"--guard.fault={text}: {each!r} is not a fault; write a kind "
                f"({', '.join(KINDS)}), @, and a batch from 1, as nan@7,spike@15"
            )
        faults[kind] = (*faults.get(kind, ()), batch)
    return faults


def put_faults(gradient: GradientOf, faults: Faults) -> GradientOf:
    """Wrap a gradient function so that it fails at the given batches.

    Args:
      gradient: the function to wrap.
      faults: batches by kind; if empty, `gradient` is returned unchanged.

    Returns:
      A gradient function of the same signature.
    """
    if not faults:
        return gradient

    def faulty(state: TrainState, batch: Batch) -> Gradient:
        def is_one(kind: str) -> jax.Array:
            # The batch number is traced: a fault is part of one compiled step, not of a
            # new program.
            return jnp.isin(state.batches + 1, jnp.asarray(faults.get(kind, ()), int))

        here = gradient(state, batch)
        loss, grads = here.means["loss"], here.grads
        for kind, number in (("nan", jnp.nan), ("inf", jnp.inf)):
            loss = jnp.where(is_one(kind), number, loss)
            grads = _fill(grads, number, where=is_one(kind))
        head = _fill(grads[HEAD], jnp.inf, where=is_one("gradient"))
        loss = loss + jnp.where(is_one("spike"), SPIKE, 0.0)
        return here._replace(
            grads={**grads, HEAD: head}, means=here.means | {"loss": loss}
        )

    return faulty


def _fill(tree: PyTree, number: float, *, where: jax.Array) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.where(where, number, leaf), tree)
