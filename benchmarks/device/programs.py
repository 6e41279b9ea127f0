"""The programs that are timed, the trainer's step and one layer, and their arguments.

Built from the rooms below the trainer's data pipeline, so that nothing but jax, flax,
optax and numpy is needed. A test holds the step to be the trainer's own, to the letter.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from device.forms import vocabulary
from lostjax.nn import Transformer, count_flops
from lostjax.nn.attention.mask import Seen, causal_bias
from lostjax.nn.attention.rotary import rotary_angles
from lostjax.nn.block import Block
from lostjax.steps.gradient import make_gradient
from lostjax.steps.guard import Guard, init_guard
from lostjax.steps.state import TrainState
from lostjax.steps.step import make_train_step
from lostjax.train.build.micro_batches import count_micro_batches
from lostjax.train.build.model import build_model, place_model
from lostjax.train.build.optimizer import build_optimizer
from lostjax.train.build.state import abstract_state, abstract_variables
from lostjax.train.config.schema import TrainConfig
from lostjax.train.devices.mesh import AXES
from lostjax.train.devices.sharding import BATCH_SPEC, place_shapes, tree_shardings
from lostjax.typing import Batch

DOCUMENTS = 3
"""Documents in a row: kernels of attention have to tell them apart."""

MARKS = ("__cudnn$fmha", "mosaic_gpu", "tpu_custom_call")
"""How fused attention and this library's kernels are called in a program."""


def one_device(device: Any) -> Mesh:
    """Make the trainer's mesh of a single device, which may be abstract."""
    devices = np.array([device]).reshape((1,) * len(AXES))
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def lower_step(config: TrainConfig, mesh: Mesh) -> Any:
    """Lower a form's training step: state, batch -> state, metrics.

    As `lostjax.train.build.programs.lower_step` does, of a run that has no text.
    """
    model, tx = _model(config), _optimizer(config)
    placed = place_model(model, config=config.model, mesh=mesh)
    shapes = place_shapes(abstract_state(model, tx, key=jax.random.key(0)), mesh)
    accumulate = count_micro_batches(config, mesh=mesh)
    step = make_train_step(
        make_gradient(placed, accumulate=accumulate),
        tx,
        guard=Guard(patience=config.guard.patience, window=config.guard.window),
    )
    whole = NamedSharding(mesh, P())
    jitted = jax.jit(
        step, donate_argnums=0, out_shardings=(tree_shardings(shapes, mesh), whole)
    )
    rows = NamedSharding(mesh, BATCH_SPEC)
    return jitted.lower(shapes, _shapes_of(make_batch(config), rows))


def draw_state(config: TrainConfig, mesh: Mesh) -> TrainState:
    """Draw a first state: quickly, for what it costs and not for what it learns.

    The trainer's own initialisation decomposes matrices.
    """
    model, tx = _model(config), _optimizer(config)
    shapes = abstract_variables(model)
    channels = _draw_channels(
        shapes["channels"], shapes["params"], np.random.default_rng(0)
    )

    def start() -> Any:
        params = jax.tree.map(_scatter, shapes["params"])
        return params, tx.init(params)

    params, opt_state = jax.jit(start)()
    state = TrainState(
        # Two buffers: the step is donated its state, and no buffer twice.
        step=jnp.zeros((), jnp.int32),
        offset=jnp.zeros((), jnp.int32),
        params=params,
        channels=channels,
        opt_state=opt_state,
        guard=init_guard(),
    )
    placed: TrainState = jax.device_put(state, tree_shardings(state, mesh))
    return placed


def _scatter(leaf: Any) -> jax.Array:
    """Spread numbers of about the size of weights: a hash, cheap to compile and run."""
    bits = jax.lax.iota(jnp.uint32, leaf.size) * jnp.uint32(2654435761)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(2246822519)
    numbers = (bits >> 8).astype(jnp.float32) / 2**24 - 0.5
    return (0.07 * numbers).reshape(leaf.shape)


def _draw_channels(channels: Any, params: Any, rng: np.random.Generator) -> Any:
    """Draw kept channels and supports: sorted, none twice, as the layers need them."""
    drawn = {}
    for name, shape in channels.items():
        if isinstance(shape, Mapping):
            drawn[name] = _draw_channels(shape, params[name], rng)
            continue
        among = params["a"].shape[-2]
        if name == "support":  # of the flattened matrix
            among *= params["b"].shape[-1]
        stride = among / shape.shape[-1]
        starts = np.floor(stride * np.arange(shape.shape[-1]))
        shifts = rng.integers(0, int(stride), shape.shape)
        drawn[name] = (starts + shifts).astype(np.int32)
    return drawn


def lower_layer(config: TrainConfig, mesh: Mesh) -> Any:
    """Lower one layer, forward and backward, without recomputation.

    Its arguments: variables, x, gradient of the output, batch.
    """
    model = place_model(_model(config), config=config.model, mesh=mesh)
    block = Block(
        n_heads=model.n_heads,
        d_hidden=model.d_hidden,
        linear=model.linear,
        mlp_activation=model.mlp_activation,
        qk_norm=model.qk_norm,
        norm_eps=model.norm_eps,
        dtype=model.dtype,
        channel_groups=model.channel_groups,
        constrain=model.constrain,
        cache_length=0,
        attend=model.attend,
    )

    def layer(variables: Any, x_BTD: Any, g_BTD: Any, batch: Batch) -> Any:
        rotation = rotary_angles(
            batch.positions_BT, d_head=model.d_model // model.n_heads
        )
        segments_BT = batch.segments_BT
        bias = causal_bias(segments_BT.shape[1], segments_BT=segments_BT)
        seen = Seen(bias, segments_BT)
        rest = {name: tree for name, tree in variables.items() if name != "params"}

        def forward(params: Any, x_BTD: Any) -> Any:
            both = {**rest, "params": params}
            return block.apply(both, x_BTD, rotation, seen, None)[0]

        y_BTD, pull = jax.vjp(forward, variables["params"], x_BTD)
        return y_BTD, pull(g_BTD)

    variables = jax.eval_shape(take_layer, abstract_variables(_model(config)))
    rows = (config.batch_size, config.data.seq_len, config.model.d_model)
    x_BTD = jax.ShapeDtypeStruct(rows, jnp.dtype(config.model.dtype))
    shapes = (variables, x_BTD, x_BTD, make_batch(config))
    return jax.jit(layer).lower(*_shapes_of(shapes, NamedSharding(mesh, P())))


def take_layer(variables: Any) -> Any:
    """Take the first layer's variables out of a model's."""
    kept = {name: tree["layers"] for name, tree in variables.items() if tree}
    return jax.tree.map(lambda leaf: leaf[0], kept)


def flops_per_token(config: TrainConfig) -> float:
    """Count the model's training FLOPs per token, without recomputation."""
    return float(count_flops(_model(config), length=config.data.seq_len).train)


def make_batch(config: TrainConfig) -> Batch:
    """Draw random tokens, in rows of a few documents."""
    rng = np.random.default_rng(0)
    shape = B, T = config.batch_size, config.data.seq_len
    ends = rng.integers(1, T, (B, DOCUMENTS - 1, 1))
    segments_BT = 1 + (np.arange(T) >= ends).sum(axis=1)
    starts_BT = np.array(
        [np.searchsorted(row, row, side="left") for row in segments_BT]
    )
    return Batch(
        tokens_BT=rng.integers(0, vocabulary(config), shape).astype(np.int32),
        targets_BT=rng.integers(0, vocabulary(config), shape).astype(np.int32),
        weights_BT=np.ones(shape, np.float32),
        segments_BT=segments_BT.astype(np.int32),
        positions_BT=(np.arange(T) - starts_BT).astype(np.int32),
        example_B=np.arange(B, dtype=np.int32),
        epoch_B=np.zeros(B, np.int32),
    )


def count_kernels(program: str) -> dict[str, int]:
    """Count the kernels that a compiled program calls, by their marks."""
    calls = [line for line in program.splitlines() if "custom_call_target=" in line]
    counts = {mark: sum(mark in call for call in calls) for mark in MARKS}
    return {mark: count for mark, count in counts.items() if count}


def peak_bytes(compiled: Any) -> int:
    """Return the memory of a program, as its compiler reports it."""
    found = compiled.memory_analysis()
    new = max(0, found.output_size_in_bytes - found.alias_size_in_bytes)
    return int(
        found.argument_size_in_bytes
        + found.temp_size_in_bytes
        + found.generated_code_size_in_bytes
        + new
    )


def _model(config: TrainConfig) -> Transformer:
    return build_model(config.model, vocab_size=vocabulary(config))


def _optimizer(config: TrainConfig) -> Any:
    return build_optimizer(config.optim, steps=config.steps)[0]


def _shapes_of(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
    )
