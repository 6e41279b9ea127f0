"""The needs of a training step on some hardware: memory and time.

    compute       FLOPs / the chip's peak         \\
    memory        HBM bytes / its bandwidth        } the longest of these is a lower
    network       bytes sent / one ring's rate    /  bound of a step's time
    MFU           the model's FLOPs, without recomputation / (that time x peak)

Seconds and MFU are estimated from published peaks, not measured.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lostjax.plan.costs import Costs
from lostjax.steps.state import TrainState
from lostjax.train.config.schema import TrainConfig
from lostjax.train.devices.sharding import shard_bytes


class Memory(NamedTuple):
    """Bytes on each device."""

    parameters: float
    optimizer: float
    """Optimiser state, kept channels, and past outputs."""
    gradients: float
    """Estimated as the size of the parameters; part of the temporaries."""
    activations: float
    """Estimated: what autodiff keeps for the backward pass, part of the temporaries."""
    temporaries: float | None
    """Reported by the compiler; None if it ran out of memory."""
    peak: float
    """Reported by the compiler."""
    capacity: float | None
    """Memory of a device; None if it is not known."""
    reference: float = 0.0
    """Variables of the model that weighs the tokens, beside the step."""

    @property
    def fits(self) -> bool | None:
        """Whether the peak is at most the capacity; None if that is not known."""
        return None if self.capacity is None else self.peak <= self.capacity


class Times(NamedTuple):
    """Lower bounds of a step's time in seconds, by resource; estimates."""

    compute: float
    memory: float
    network: float

    @property
    def step(self) -> float:
        """The largest of the bounds."""
        return max(self)

    @property
    def binding(self) -> str:
        """Name of the resource with the largest bound."""
        return max(self._fields, key=lambda name: getattr(self, name))


class Plan(NamedTuple):
    """The needs of a configuration on some hardware."""

    name: str
    """Name of the preset."""
    config: TrainConfig
    topology: str
    device: str
    """JAX's `device_kind`."""
    mesh: Mapping[str, int]
    """Mesh axis to size."""
    micro_batches: int
    """Number of micro-batches in a step."""
    memory: Memory
    costs: Costs | None
    """None if the compiler ran out of memory, or jaxlib cannot read its program."""
    model_flops: float
    """FLOPs of the model per step and device, without recomputation."""
    times: Times | None
    """None if the chip's figures or the costs are not known."""
    peak_flops: float | None
    """Peak FLOP/s of the chip; None if they are not known."""
    compile_seconds: float

    @property
    def tokens(self) -> int:
        """Number of tokens in a step."""
        return self.config.batch_size * self.config.data.seq_len

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation at the estimated time; None if that is not known."""
        if self.times is None or self.peak_flops is None:
            return None
        return self.model_flops / (self.times.step * self.peak_flops)


def split_memory(
    state: TrainState,
    compiled: Any | None,
    *,
    peak: float,
    activations: float,
    capacity: float | None,
    reference: float = 0.0,
) -> Memory:
    """Split the memory of a step by what it holds.

    Args:
      state: shapes of the state, with their shardings.
      compiled: the compiled step; None if the compiler ran out of memory.
      peak: bytes on each device that the compiler reports.
      activations: bytes on each device that autodiff keeps for the backward pass.
      capacity: bytes of a device's memory; None if they are not known.
      reference: bytes on each device of the reference's variables.

    Returns:
      The bytes on each device.
    """
    parameters = shard_bytes(state.params)
    temporaries = None
    if compiled is not None:
        temporaries = compiled.memory_analysis().temp_size_in_bytes
    return Memory(
        parameters=parameters,
        optimizer=shard_bytes((state.opt_state, state.channels, state.memory)),
        gradients=parameters,
        activations=activations,
        temporaries=temporaries,
        peak=peak,
        capacity=capacity,
        reference=reference,
    )
