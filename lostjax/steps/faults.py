"""Faults put into a run on purpose, to see that its guard holds: `--guard.fault`.

    nan@7,inf@9,gradient@12,spike@15        a kind @ a batch, counted from 1

    nan, inf    the loss is that number, and all of its gradient
    gradient    the loss is what it was, the head's gradient infinite
    spike       the loss that the guard sees is 1000 nats higher, the gradient as it was

A batch of a run that went back from no spike is its step. It is for tests, of a cluster
and its alarms as of this library; nothing is compiled where there is no fault.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from lostjax.data import Batch
from lostjax.errors import ConfigError
from lostjax.numerals import read_whole
from lostjax.steps.gradient import Gradient, GradientOf
from lostjax.steps.state import TrainState
from lostjax.typing import PyTree

KINDS = ("nan", "inf", "gradient", "spike")
SPIKE = 1000.0
"""Nats."""
HEAD = "head"
"""The subtree of the parameters that a `gradient` fault touches."""

Faults = Mapping[str, tuple[int, ...]]
"""Kind to batches, counted from 1."""


def parse_faults(text: str) -> Faults:
    """Read `nan@7,spike@15`.

    Raises:
      ConfigError: naming what is no fault.
    """
    faults: dict[str, tuple[int, ...]] = {}
    for each in filter(None, text.split(",")):
        kind, _, text_of_batch = each.partition("@")
        batch = read_whole(text_of_batch, least=1)
        if kind not in KINDS or batch is None:
            raise ConfigError(
                f"--guard.fault={text}: {each!r} is no fault; write a kind "
                f"({', '.join(KINDS)}), @, and a batch from 1, as nan@7,spike@15"
            )
        faults[kind] = (*faults.get(kind, ()), batch)
    return faults


def put_faults(gradient: GradientOf, faults: Faults) -> GradientOf:
    """Let some batches' gradients fail."""
    if not faults:
        return gradient

    def faulty(state: TrainState, batch: Batch) -> Gradient:
        def is_one(kind: str) -> jax.Array:
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
