"""Bytes of a training state and of the activations saved for the backward pass.

    state          parameters + optimiser moments, each N x the bytes of its dtype
    activations    B x (saved bytes of two rows - saved bytes of one row)

`activation_bytes` returns the size of the values that autodiff saves for the backward
pass under the model's `remat` policy, before the compiler fuses or reuses buffers. Use
it to compare models and policies. For the peak memory of a compiled step, call
`memory_analysis()` on the compiled function.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lostjax.nn.transformer import Transformer
from lostjax.typing import PyTree


class Memory(NamedTuple):
    """Bytes of the training state that persists between steps."""

    parameters: int
    optimizer: int

    @property
    def total(self) -> int:
        """Return the bytes of parameters and optimiser state."""
        return self.parameters + self.optimizer


def count_memory(
    n_parameters: int,
    *,
    moments: int = 2,
    parameter_dtype: DTypeLike = jnp.float32,
    moment_dtype: DTypeLike = jnp.float32,
) -> Memory:
    """Count the bytes of parameters and optimiser state.

    Args:
        n_parameters: number of parameters, such as `count_parameters(model).total`.
        moments: values that the optimiser keeps per parameter; 2 for Adam.
        parameter_dtype: dtype of the parameters.
        moment_dtype: dtype of the moments; the 6 bytes per parameter in the papers
            correspond to bfloat16 for both dtypes.

    Returns:
        The byte counts. Step counters and kept indices are not included.
    """
    return Memory(
        parameters=n_parameters * jnp.dtype(parameter_dtype).itemsize,
        optimizer=n_parameters * moments * jnp.dtype(moment_dtype).itemsize,
    )


def activation_bytes(model: Transformer, *, batch_size: int, length: int) -> int:
    """Count the bytes that autodiff saves in the forward pass for the backward pass.

    Args:
        model: the model, with its `remat` policy and dtype.
        batch_size: rows, B >= 1.
        length: tokens per row, T >= 1.

    Returns:
        Bytes of the saved values that grow with the batch size. Parameters, values
        shared by all rows (rotary angles) and values saved by the loss are not counted.
    """
    # The difference of two batch sizes cancels everything that rows share.
    one, two = (_saved_bytes(model, rows, length) for rows in (1, 2))
    return batch_size * (two - one)


def _saved_bytes(model: Transformer, batch_size: int, length: int) -> int:
    tokens_BT = jnp.zeros((batch_size, length), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)

    def saved(variables: PyTree) -> PyTree:
        rest = {name: variables[name] for name in variables if name != "params"}

        def forward(params: PyTree) -> Any:
            return model.apply({"params": params, **rest}, tokens_BT)

        # The residuals of vjp are exactly what a training step keeps in memory.
        _, backward = jax.vjp(forward, variables["params"])
        # One array may be a residual of several operations: count it once.
        return list({id(leaf): leaf for leaf in jax.tree.leaves(backward)}.values())

    leaves = jax.eval_shape(saved, variables)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
