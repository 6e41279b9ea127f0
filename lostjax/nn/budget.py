"""What a model costs, from its sizes alone: parameters, bytes, FLOPs. Nothing is made.

    parameters   embedding V D | L x (attention, mlp, norms) | final norm D | head D V
    FLOPs        2 for each multiply-add of a matrix product, nothing else
    training     3 x forward: the backward pass has two products for each one

Each linear map counts itself (`parameter_count`, `flops`). Scores are counted as they
are computed: the full T x T square, half of it hidden, 4 T D a token and layer. Looking
up embeddings is no product. Recomputation under a `remat` policy is not counted, nor,
for SLTrain, making W once a step. LOST's low-rank and sparse parts are counted as their
one product of width r + k; x_I is a gather.

`activation_bytes` is what autodiff keeps for the backward pass under the model's
`remat` policy, before the compiler fuses or reuses anything: it compares models and
policies; for the peak of a compiled step ask its `memory_analysis()`.
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
    """Numbers of trainable parameters by part; all layers together."""

    embedding: int
    attention: int
    mlp: int
    norms: int
    head: int

    @property
    def non_embedding(self) -> int:
        """What is left without the two tables of the vocabulary."""
        return self.attention + self.mlp + self.norms

    @property
    def total(self) -> int:
        """All of them."""
        return self.non_embedding + self.embedding + self.head


class Flops(NamedTuple):
    """FLOPs of matrix products for each token of a forward pass, by part."""

    linear: int
    """The seven matrices of every layer."""
    scores: int
    """Scores and the sums weighted by them, for a row of T tokens."""
    head: int

    @property
    def forward(self) -> int:
        """The whole forward pass."""
        return self.linear + self.scores + self.head

    @property
    def train(self) -> int:
        """Forward and backward."""
        return 3 * self.forward


class Memory(NamedTuple):
    """Bytes that stay from step to step."""

    parameters: int
    optimizer: int

    @property
    def total(self) -> int:
        """Both."""
        return self.parameters + self.optimizer


def count_parameters(model: Transformer) -> Parameters:
    """Count the trainable parameters of a model by part.

    Args:
        model: the model; nothing is initialised.

    Returns:
        The counts. Kept indices (LOST) and supports (SLTrain) are not among them.
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
    """Count the FLOPs for each token.

    Args:
        model: the model.
        length: tokens in a row, T >= 1.

    Returns:
        The counts, for matrix products only.
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
        n_parameters: as from `count_parameters(model).total`.
        moments: numbers the optimiser keeps for each parameter; 2 for Adam.
        parameter_dtype: of the parameters.
        moment_dtype: of the moments; the papers' 6 bytes a parameter are bfloat16 both.

    Returns:
        The bytes. Step counters and kept indices are left out.
    """
    return Memory(
        parameters=n_parameters * jnp.dtype(parameter_dtype).itemsize,
        optimizer=n_parameters * moments * jnp.dtype(moment_dtype).itemsize,
    )


def activation_bytes(model: Transformer, *, batch_size: int, length: int) -> int:
    """Count the bytes that autodiff keeps from the forward for the backward pass.

    Args:
        model: the model, with its `remat` policy and dtype.
        batch_size: rows, B >= 1.
        length: tokens in a row, T >= 1.

    Returns:
        Bytes of the saved values that grow with the batch: neither parameters nor what
        rows share (rotary angles). What the loss saves is left out.
    """
    one, two = (_saved_bytes(model, rows, length) for rows in (1, 2))
    return batch_size * (two - one)


def rank_for_budget(
    make_model: Callable[[int], Transformer],
    *,
    n_parameters: int,
    max_rank: int | None = None,
) -> int:
    """Find the largest rank whose model has at most so many parameters.

    Args:
        make_model: makes the model of a given rank; its count must grow with the rank.
        n_parameters: the budget, embedding and head not counted.
        max_rank: the largest rank to try; None for the smallest side of a matrix,
            min(D, F).

    Returns:
        The rank.

    Raises:
        ValueError: if rank 1 is above the budget already.

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
    """Make the seven linear maps of one layer, each with its number of inputs.

    Args:
        model: the model; the maps are unbound and hold no parameters.

    Returns:
        From name (q, k, v, o, gate, up, down) to (map, M).
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

        _, backward = jax.vjp(forward, variables["params"])
        # One array may be kept for several uses.
        return list({id(leaf): leaf for leaf in jax.tree.leaves(backward)}.values())

    leaves = jax.eval_shape(saved, variables)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
