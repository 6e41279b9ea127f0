"""Arguments of the TPU kernels: references to arrays in VMEM and scalar memory."""

from typing import NamedTuple

from jax.experimental import pallas as pl

from lostjax.nn.kernels.tpu.blocks import round_up
from lostjax.nn.kernels.tpu.lanes import Ref, Rows


class Resident(NamedTuple):
    """Arrays of one sibling that stay in VMEM: weights and channel indices."""

    gamma: Ref
    a: Ref
    b: Ref
    values: Ref
    kept: Ref
    sources: Ref = None


class Passing(NamedTuple):
    """Rows of one sibling that are streamed: hidden values and output gradient."""

    h: Ref
    g: Ref


class Made(NamedTuple):
    """Outputs of one sibling: the gradients of its weights."""

    da: Ref
    dbw: Ref
    dgamma: Ref


class KeptBack(NamedTuple):
    """Scratch of one sibling: its sums, and the values from which dx is computed."""

    da_sum: Ref
    dbw_sum: Ref
    dh: Ref
    dkept: Ref


class Scratch(NamedTuple):
    """Scratch that siblings share, one after the other."""

    z: Ref
    dh_t: Ref
    narrow_t: Ref
    da_out: Ref
    dbw_out: Ref
    words: Ref


class Refs(NamedTuple):
    """All references of one sibling; some are None without kept channels."""

    x: Ref
    dx: Ref
    by: Passing
    own: Resident
    made: Made
    back: KeptBack
    scratch: Scratch

    @property
    def rows(self) -> Rows:
        """Return the slice of all rows of the step."""
        return pl.ds(0, self.x.shape[0])

    @property
    def kept_rows(self) -> Rows:
        """Return the rows of `narrow_t` and `dbw_sum` that hold kept channels."""
        n_kept = 0 if self.own.values is None else self.own.values.shape[0]
        summed = round_up(n_kept, 32 // self.x.dtype.itemsize)
        return pl.ds(self.scratch.narrow_t.shape[0] - summed, n_kept)
