"""Parameters, memory and FLOPs of a model, computed from its sizes alone.

    parameters   embedding V D | L x (attention, mlp, norms) | final norm D | head D V
    FLOPs        2 per multiply-add of a matrix product, nothing else
    training     3 x forward: the backward pass has two products for each forward one

No parameter is allocated. Each linear map counts itself (`parameter_count`, `flops`).
Attention scores are counted as XLA's full T x T square, although half of it is masked:
4 T D FLOPs per token and layer. Not counted: embedding look-ups, recomputation under a
`remat` policy and, for SLTrain, the product that builds W once per step. The low-rank
and sparse parts of LOST are counted as one product of width r + k; selecting x_I is a
gather and costs no FLOPs.

`activation_bytes` returns the size of the values that autodiff saves for the backward
pass under the model's `remat` policy, before the compiler fuses or reuses buffers. Use
it to compare models and policies. For the peak memory of a compiled step, call
`memory_analysis()` on the compiled function.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lostjax.nn.linear.projection import Linear
from lostjax.nn.transformer import Transformer
from lostjax.typing import PyTree


class Parameters(NamedTuple):
    """Number of trainable parameters by part, summed over all layers."""

    embedding: int
    attention: int
    mlp: int
    norms: int
    head: int

    @property
    def non_embedding(self) -> int:
        """Return the count without the embedding table and the head."""
        return self.attention + self.mlp + self.norms

    @property
    def total(self) -> int:
        """Return the count of all parts."""
        return self.non_embedding + self.embedding + self.head


class Flops(NamedTuple):
    """FLOPs of matrix products per token of a forward pass, by part."""

    linear: int
    """The seven matrices of all layers."""
    scores: int
    """Attention scores and weighted sums of values, for a row of T tokens."""
    head: int

    @property
    def forward(self) -> int:
        """Return the FLOPs of the forward pass."""
        return self.linear + self.scores + self.head

    @property
    def train(self) -> int:
        """Return the FLOPs of the forward and the backward pass."""
        return 3 * self.forward


class Memory(NamedTuple):
    """Bytes of the training state that persists between steps."""

    parameters: int
    optimizer: int

    @property
    def total(self) -> int:
        """Return the bytes of parameters and optimiser state."""
        return self.parameters + self.optimizer


def count_parameters(model: Transformer) -> Parameters:
    """Count the trainable parameters of a model by part.

    Args:
        model: the model; it is not initialised.

    Returns:
        The counts. Kept indices (LOST) and supports (SLTrain) are not trainable and not
        counted.
    """
    D, L = model.d_model, model.n_layers
    count = {
        name: layer.parameter_count(n_inputs)
        for name, (layer, n_inputs) in linear_maps(model).items()
    }
    head_norms = 2 * (D // model.n_heads) if model.qk_norm else 0
    return Parameters(
        embedding=model.vocab_size * D,
        attention=L * sum(count[name] for name in ("q", "k", "v", "o")),
        mlp=L * sum(count[name] for name in ("gate", "up", "down")),
        norms=L * (2 * D + head_norms) + D,
        head=D * model.vocab_size,
    )


def count_flops(model: Transformer, *, length: int) -> Flops:
    """Count the FLOPs of matrix products per token.

    Args:
        model: the model; it is not initialised.
        length: tokens per row, T >= 1.

    Returns:
        The counts by part.

    Raises:
        ValueError: if `length` is less than 1.
    """
    if length < 1:
        raise ValueError(f"length={length}: must be at least 1")
    per_layer = sum(
        layer.flops(n_inputs) for layer, n_inputs in linear_maps(model).values()
    )
    return Flops(
        linear=model.n_layers * per_layer,
        scores=model.n_layers * 4 * length * model.d_model,
        head=2 * model.d_model * model.vocab_size,
    )


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


def rank_for_budget(
    make_model: Callable[[int], Transformer],
    *,
    n_parameters: int,
    max_rank: int | None = None,
) -> int:
    """Find the largest rank whose model stays within a parameter budget.

    Args:
        make_model: function from a rank to a model; the parameter count must increase
            with the rank.
        n_parameters: the budget, without embedding and head.
        max_rank: largest rank to try, >= 1; None for min(D, F), the smallest side of a
            matrix.

    Returns:
        The rank, in [1, max_rank].

    Raises:
        ValueError: if the model of rank 1 exceeds the budget.

    Example:
        dense = count_parameters(Transformer(**sizes)).non_embedding
        rank = rank_for_budget(make_lost, n_parameters=dense // 2)
    """
    smallest = make_model(1)
    if max_rank is None:
        max_rank = min(smallest.d_model, smallest.d_hidden)
    least = count_parameters(smallest).non_embedding
    if least > n_parameters:
        raise ValueError(
            f"n_parameters={n_parameters}: the model of rank 1 has {least} without"
            " embedding and head"
        )
    low, high = 1, max_rank
    while low < high:
        middle = (low + high + 1) // 2
        if count_parameters(make_model(middle)).non_embedding <= n_parameters:
            low = middle
        else:
            high = middle - 1
    return low


def linear_maps(model: Transformer) -> Mapping[str, tuple[Linear, int]]:
    """Build the seven linear maps of one layer, each with its number of inputs.

    Args:
        model: the model; the maps are unbound and hold no parameters.

    Returns:
        A mapping from name (q, k, v, o, gate, up, down) to (linear map, M).
    """
    D, F = model.d_model, model.d_hidden
    sizes = dict.fromkeys(("q", "k", "v", "o"), (D, D))
    sizes |= {"gate": (D, F), "up": (D, F), "down": (F, D)}
    return {
        name: (
            model.linear(
                features=n_outputs,
                name=None,
                channel_groups=model.channel_groups if name in ("o", "down") else 1,
                dtype=model.dtype,
            ),
            n_inputs,
        )
        for name, (n_inputs, n_outputs) in sizes.items()
    }


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
