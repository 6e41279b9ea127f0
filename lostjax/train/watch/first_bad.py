"""Find the first tensor that is not finite, in the order in which a step computes them.

    forward     outputs of modules, layer by layer, in the order of their calls; then
                the loss and the objective's terms
    backward    gradients from the head down to the embedding, last layer first

A number that is not finite spreads to everything that is computed from it, so that only
the first one is informative. One bit is kept of each output.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lostjax.data import Batch
from lostjax.steps.readings import STACKED
from lostjax.typing import Variables

_LAST = 1 << 30
"""Number of a module that was not entered: after all others."""


class Outputs(NamedTuple):
    """The outputs of a model's modules that are not finite."""

    bad: tuple[str, ...]
    """Names of them in the order of computation, such as `the output of
    layers/mlp/down, layer 3` or `the parameters of ...`."""
    entered: Mapping[str, int]
    """Number of every module by its path, in the order of first calls."""


def look_at_outputs(model: nn.Module, variables: Variables, batch: Batch) -> Outputs:
    """Run a model up to its final states, and find outputs that are not finite.

    All processes call this.

    Args:
      model: an `nn.Transformer`, bound to the mesh of the batch.
      variables: its parameters and kept channels.
      batch: the input.

    Returns:
      The outputs that are not finite, and the order of the modules.
    """
    entered: dict[str, int] = {}
    left: dict[str, int] = {}

    def look(
        call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module, method = context.module, context.method_name
        path = "/".join(module.path)
        entered.setdefault(path, len(entered))
        made = call(*args, **kwargs)
        leaves = [leaf for leaf in jax.tree.leaves(made) if _is_real(leaf)]
        if leaves and path and method != "setup":
            what = "parameters" if method == "weights" else "output"
            number = left.setdefault(f"the {what} of {path}", len(left))
            finite = [jnp.all(jnp.isfinite(leaf)) for leaf in leaves]
            # One bit per output: the outputs themselves may not fit in memory.
            module.sow("intermediates", str(number), jnp.stack(finite).all())
        return made

    @jax.jit
    def run(variables: Variables, batch: Batch) -> Any:
        with nn.intercept_methods(look):
            _, seen = model.apply(
                variables,
                batch.tokens_BT,
                segments_BT=batch.segments_BT,
                positions_BT=batch.positions_BT,
                mutable=["intermediates"],
                method="final_states",
            )
        return _by_number(seen)

    finite = jax.device_get(run(variables, batch))
    # Flags of scanned layers have an axis L. A layer runs all of its modules before the
    # next layer, so they sort by layer first, from the place of the first such module.
    layered = [number for number, flags in finite.items() if np.ndim(flags)]
    first_layered = min(layered, default=0)
    bad = []
    for what, number in left.items():
        for layer in np.flatnonzero(~np.asarray(finite[number])):
            if np.ndim(finite[number]):
                place = (first_layered, int(layer), number)
                bad.append((place, f"{what}, layer {layer}"))
            else:
                bad.append(((number, 0, number), what))
    return Outputs(tuple(text for _, text in sorted(bad)), entered)


def order_backward(
    bad: Sequence[tuple[str, int | None]], entered: Mapping[str, int]
) -> list[tuple[str, int | None]]:
    """Sort tensors by the order in which the backward pass reaches them.

    Args:
      bad: path and layer of each tensor; the layer is None outside the stacked layers.
      entered: see `Outputs`. A module that is not in it, which is the head, comes after
        all others in the forward pass.

    Returns:
      The same tensors, sorted.
    """

    def place(tensor: tuple[str, int | None]) -> tuple[int, int, int]:
        path, layer = tensor
        number = _find_module(path, entered)
        if layer is None:
            return -number, 0, -number
        return -entered.get(STACKED, 0), -layer, -number

    return sorted(bad, key=place)


def _find_module(path: str, entered: Mapping[str, int]) -> int:
    """Return the number of the innermost module that a tensor belongs to."""
    parts = path.split("/")
    for end in range(len(parts) - 1, 0, -1):
        number = entered.get("/".join(parts[:end]))
        if number is not None:
            return number
    return _LAST


def _by_number(seen: Mapping[str, Any]) -> dict[int, jax.Array]:
    """Collect the sown flags by number; all calls of one method must be finite."""
    found: dict[int, jax.Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(seen):
        for key in path:
            name = str(getattr(key, "key", ""))
            if name.isdigit():
                found[int(name)] = found.get(int(name), True) & leaf
    return found


def _is_real(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact)
