"""Past outputs by example: what the model answered to each, some epochs ago.

An example seen in epoch e finds its outputs of epoch e - lag: the past of SAF (Du et
al., "Sharpness-Aware Training for Free", 2022, arXiv:2205.14083), whose loss is in
`losses.trajectory`. Outputs are any tree of arrays: logits where classes are few,
`TopOutputs` for a vocabulary.

    slot of epoch e = e mod lag        written[example, slot] = e

A slot says which epoch it was written in, and is read only for that epoch: what was
never written, or is older or newer, is not known. So an example that the sampler left
out, a resumed run and batches that straddle epochs are safe. (The authors' code reads
zeros there, which are uniform targets.) One slot an epoch of lag suffices, because the
outputs of epoch e - lag are read before those of epoch e take their slot: in one step,
recall from the old memory, then write.

All functions are pure. Under jit with the memory donated a write is in place. Like any
tree the memory can be checkpointed (it belongs to the state of a run), sharded (cut
outputs, not examples: then a batch's rows are found on every shard), or kept on the
host: put it on `jax.devices("cpu")[0]` and only the rows of a batch travel.

Cost: n_examples x lag x (bytes of one example's outputs + 4).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.typing import Array, Bool, Int, PyTree


class OutputMemory(NamedTuple):
    """Outputs of examples in their last `lag` epochs; X examples, S = lag slots."""

    outputs: PyTree
    """The outputs, each leaf (X, S, ...)."""
    written_XS: Int[Array, "X S"]
    """Epoch in which each slot was written, int32; -1 for never."""


def init_memory(n_examples: int, example_outputs: PyTree, *, lag: int) -> OutputMemory:
    """Make a memory in which nothing is known.

    Args:
      n_examples: X; example ids lie in [0, X).
      example_outputs: outputs of one example (arrays or `jax.ShapeDtypeStruct`), for
        their shapes and types.
      lag: epochs between outputs and their recall, at least 1 (the paper: 3).

    Returns:
      The memory, with zeros for outputs.

    Raises:
      ValueError: where n_examples or lag is below 1.
    """
    for name, value in (("n_examples", n_examples), ("lag", lag)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    outputs = jax.tree.map(
        lambda leaf: jnp.zeros((n_examples, lag, *leaf.shape), leaf.dtype),
        example_outputs,
    )
    return OutputMemory(outputs, jnp.full((n_examples, lag), -1, jnp.int32))


def recall_outputs(
    memory: OutputMemory, ids: Int[Array, "B"], *, epoch: Int[Array, "..."] | int
) -> tuple[PyTree, Bool[Array, "B"]]:
    """Read the outputs of `lag` epochs ago.

    Args:
      memory: the memory.
      ids: examples (B,); those outside [0, X), such as -1 for padding, are not known.
      epoch: present epoch of each example, (B,) or one for all, from 0.

    Returns:
      (outputs, known): outputs (B, ...), zeros where not known; known (B,), whether
      the example's outputs were written in epoch - lag.
    """
    n_examples, lag = memory.written_XS.shape
    epoch_B = jnp.broadcast_to(jnp.asarray(epoch, jnp.int32), ids.shape)
    slot_B = epoch_B % lag
    here_B = (ids >= 0) & (ids < n_examples)
    row_B = jnp.where(here_B, ids, 0)
    wanted_B = epoch_B - lag
    known_B = here_B & (wanted_B >= 0) & (memory.written_XS[row_B, slot_B] == wanted_B)

    def read(leaf: jax.Array) -> jax.Array:
        found = leaf[row_B, slot_B]
        shape = (-1, *[1] * (found.ndim - 1))
        return jnp.where(known_B.reshape(shape), found, jnp.zeros_like(found))

    return jax.tree.map(read, memory.outputs), known_B


def write_outputs(
    memory: OutputMemory,
    ids: Int[Array, "B"],
    outputs: PyTree,
    *,
    epoch: Int[Array, "..."] | int,
) -> OutputMemory:
    """Write the outputs of this epoch; recall those that they replace first.

    Args:
      memory: the memory.
      ids: examples (B,); those outside [0, X) are not written. An example that is
        there in several epochs keeps the newest of each slot; twice in one epoch, it
        is not defined which.
      outputs: theirs, leaves (B, ...), cast to the memory's types; without gradient.
      epoch: present epoch of each example, (B,) or one for all, from 0. A slot that
        holds a later epoch is left as it is.

    Returns:
      The memory with the outputs in it.

    Raises:
      ValueError: where the outputs' structure or shapes are not those of the memory.
    """
    _require_outputs(memory, outputs, n=ids.shape[0])
    n_examples, lag = memory.written_XS.shape
    epoch_B = jnp.broadcast_to(jnp.asarray(epoch, jnp.int32), ids.shape)
    slot_B = epoch_B % lag
    here_B = (ids >= 0) & (ids < n_examples) & (epoch_B >= 0)
    # Rows past the end are dropped; negative ones would count from the end.
    row_B = jnp.where(here_B, ids, n_examples)
    written_XS = memory.written_XS.at[row_B, slot_B].max(epoch_B, mode="drop")
    # Of one example in several epochs the newest alone is written: scatters with equal
    # places have no order.
    newest_B = written_XS.at[row_B, slot_B].get(mode="clip") == epoch_B
    row_B = jnp.where(newest_B, row_B, n_examples)

    def write(leaf: jax.Array, values: jax.Array) -> jax.Array:
        values = jax.lax.stop_gradient(values).astype(leaf.dtype)
        return leaf.at[row_B, slot_B].set(values, mode="drop")

    return OutputMemory(jax.tree.map(write, memory.outputs, outputs), written_XS)


def _require_outputs(memory: OutputMemory, outputs: PyTree, *, n: int) -> None:
    ours: Any = jax.tree.structure(memory.outputs)
    theirs: Any = jax.tree.structure(outputs)
    if ours != theirs:
        raise ValueError(f"outputs: structure {theirs} is not the memory's, {ours}")
    leaves = jax.tree_util.tree_leaves_with_path(memory.outputs)
    for (path, leaf), values in zip(leaves, jax.tree.leaves(outputs), strict=True):
        expected = (n, *leaf.shape[2:])
        if np.shape(values) != expected:
            name = jax.tree_util.keystr(path, simple=True, separator="/") or "the array"
            raise ValueError(
                f"outputs: {name} has shape {np.shape(values)}, must be {expected}"
            )
