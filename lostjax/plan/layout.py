"""A run laid out on devices that may be absent: its mesh, its shapes and its bytes.

bytes on a device = sum over arrays of (shape of its shard) x (bytes of its dtype)
"""

import math

import numpy as np
from jax.sharding import AxisType, Mesh

from lostjax.data import count_tokens
from lostjax.plan.targets import Target
from lostjax.train.build.job import prepare_text
from lostjax.train.build.objectives.reference import build_reference
from lostjax.train.build.run import Run, build_run
from lostjax.train.config.schema import TrainConfig
from lostjax.train.devices.mesh import resolve_mesh


def describe_run(config: TrainConfig, mesh: Mesh) -> Run:
    """Build a run as the trainer does, on a mesh whose devices may be abstract.

    The text is read only if the objective depends on the number of its rows. A
    tokenizer file is always read.

    Args:
      config: already checked.
      mesh: the devices.

    Returns:
      The run.

    Raises:
      ConfigError, DataError: see `make_plan`.
    """
    rows = None
    if config.objective.trajectory.name == "none":
        size = count_tokens(config.data.tokenizer)
    else:
        data = prepare_text(config)
        size, rows = data.vocab_size, data.train
    reference = None
    if config.objective.token_weights.reference is not None:
        reference = build_reference(config, mesh=mesh, vocab_size=size)
    return build_run(config, mesh=mesh, vocab_size=size, rows=rows, reference=reference)


def lay_mesh(config: TrainConfig, target: Target) -> Mesh:
    """Arrange a target's devices in a configuration's mesh.

    Raises:
      ConfigError: if the mesh does not fit the devices.
    """
    found = f"{len(target.devices)} x {target.kind}"
    axes = resolve_mesh(config.mesh, n_devices=len(target.devices), found=found)
    sizes = tuple(axes.values())
    devices = np.array(target.devices[: math.prod(sizes)]).reshape(sizes)
    return Mesh(devices, tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
