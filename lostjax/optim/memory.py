"""A memory of past outputs: the model's outputs for each example some epochs ago.

For an example of epoch e the memory returns its outputs of epoch e - lag. SAF uses them
as the past (Du et al., "Sharpness-Aware Training for Free", 2022, arXiv:2205.14083);
its loss is in `losses.trajectory`. Outputs can be any tree of arrays: logits if there
are few classes, `TopOutputs` for a vocabulary.

    slot of epoch e = e mod lag        written[example, slot] = e

Each slot records the epoch in which it was written and is read only for that epoch.
Outputs that were never written, or that belong to another epoch, count as unknown.
Therefore examples that the sampler skipped, resumed runs and batches that span epochs
are safe. (The authors' code reads zeros there, which are uniform targets.) One slot per
epoch of lag suffices, because a step recalls the outputs of epoch e - lag from the old
memory before it writes those of epoch e.

All functions are pure. Under jit with the memory donated, a write happens in place. The
memory is a tree like any other. It can be checkpointed (it is part of a run's state).
It can be sharded: shard the outputs, not the examples, so that every shard has the rows
of a batch. It can stay on the host: put it on `jax.devices("cpu")[0]`, and only the
rows of a batch are transferred.

Cost: n_examples x lag x (bytes of one example's outputs + 4).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.typing import Array, Bool, Int, PyTree


class OutputMemory(NamedTuple):
    """Outputs of X examples in their last `lag` epochs, in S = lag slots."""

    outputs: PyTree
    """The outputs, each leaf (X, S, ...)."""
    written_XS: Int[Array, "X S"]
    """Epoch in which each slot was written, int32; -1 if never."""


def init_memory(n_examples: int, example_outputs: PyTree, *, lag: int) -> OutputMemory:
    """Build a memory in which all outputs are unknown.

    Args:
      n_examples: X, at least 1; example ids lie in [0, X).
      example_outputs: outputs of one example (arrays or `jax.ShapeDtypeStruct`); only
        their shapes and types are used.
      lag: epochs between writing and recalling outputs, at least 1 (the paper uses 3).

    Returns:
      The memory, with zeros as outputs.

    Raises:
      ValueError: if `n_examples` or `lag` is below 1.
    """
    for name, value in (("n_examples", n_examples), ("lag", lag)):
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    outputs = jax.tree.map(
        lambda leaf: jnp.zeros((n_examples, lag, *leaf.shape), leaf.dtype),
        example_outputs,
    )
    # -1 is no epoch: a zero would claim that slot 0 belongs to epoch 0.
    return OutputMemory(outputs, jnp.full((n_examples, lag), -1, jnp.int32))


def recall_outputs(
    memory: OutputMemory, ids: Int[Array, "B"], *, epoch: Int[Array, "..."] | int
) -> tuple[PyTree, Bool[Array, "B"]]:
    """Read the outputs that were written `lag` epochs ago.

    Args:
      memory: the memory.
      ids: examples (B,); ids outside [0, X), such as -1 for padding, are unknown.
      epoch: present epoch of each example, (B,) or one for all, from 0.

    Returns:
      (outputs, known): leaves (B, ...) of outputs, zeros for unknown examples, and
      known (B,), True if the example's outputs were written in epoch - lag.
    """
    n_examples, lag = memory.written_XS.shape
    epoch_B = jnp.broadcast_to(jnp.asarray(epoch, jnp.int32), ids.shape)
    slot_B = epoch_B % lag
    here_B = (ids >= 0) & (ids < n_examples)
    # Read row 0 for invalid ids and mask the result: gathers clamp silently.
    row_B = jnp.where(here_B, ids, 0)
    wanted_B = epoch_B - lag
    # Without `wanted_B >= 0`, epoch - lag = -1 would match the mark of an unwritten
    # slot.
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
    """Write the outputs of the present epoch; recall those that they replace first.

    Args:
      memory: the memory.
      ids: examples (B,); ids outside [0, X) are not written. If an example occurs for
        several epochs, the latest epoch of each slot is kept. If it occurs twice for
        one epoch, either of its outputs may be kept.
      outputs: their outputs, leaves (B, ...), cast to the memory's types; no gradient
        flows through them.
      epoch: present epoch of each example, (B,) or one for all, from 0. A slot that
        holds a later epoch stays unchanged.

    Returns:
      The updated memory.

    Raises:
      ValueError: if the structure or the shapes of the outputs differ from the
        memory's.
    """
    _require_outputs(memory, outputs, n=ids.shape[0])
    n_examples, lag = memory.written_XS.shape
    epoch_B = jnp.broadcast_to(jnp.asarray(epoch, jnp.int32), ids.shape)
    slot_B = epoch_B % lag
    here_B = (ids >= 0) & (ids < n_examples) & (epoch_B >= 0)
    # Scatters drop rows past the end, but negative rows would count from the end.
    row_B = jnp.where(here_B, ids, n_examples)
    # max keeps the later epoch, in a slot and between duplicates, in any order of
    # writes.
    written_XS = memory.written_XS.at[row_B, slot_B].max(epoch_B, mode="drop")
    # Write only the latest epoch of each example: a scatter to equal indices has no
    # defined order, but max has one result.
    # Dropped rows read a clipped index here; they are past the end anyway and stay
    # dropped.
    newest_B = written_XS.at[row_B, slot_B].get(mode="clip") == epoch_B
    row_B = jnp.where(newest_B, row_B, n_examples)

    def write(leaf: jax.Array, values: jax.Array) -> jax.Array:
        # The memory is state, not a path for gradients from one step to the next.
        values = jax.lax.stop_gradient(values).astype(leaf.dtype)
        return leaf.at[row_B, slot_B].set(values, mode="drop")

    return OutputMemory(jax.tree.map(write, memory.outputs, outputs), written_XS)


def _require_outputs(memory: OutputMemory, outputs: PyTree, *, n: int) -> None:
    ours: Any = jax.tree.structure(memory.outputs)
    theirs: Any = jax.tree.structure(outputs)
    if ours != theirs:
        raise ValueError(f"outputs: structure {theirs} must be the memory's, {ours}")
    leaves = jax.tree_util.tree_leaves_with_path(memory.outputs)
    for (path, leaf), values in zip(leaves, jax.tree.leaves(outputs), strict=True):
        expected = (n, *leaf.shape[2:])
        if np.shape(values) != expected:
            name = jax.tree_util.keystr(path, simple=True, separator="/") or "the array"
            raise ValueError(
                f"outputs: {name} has shape {np.shape(values)}, must be {expected}"
            )
