"""What kernels on a TPU are handed: pieces of arrays in its memories."""

from typing import NamedTuple

from jax.experimental import pallas as pl

from lostjax.nn.kernels.tpu.blocks import round_up
from lostjax.nn.kernels.tpu.lanes import Ref, Rows


class Resident(NamedTuple):
    """What stays in VMEM of one sibling: weights, and where its kept channels are."""

    gamma: Ref
    a: Ref
    b: Ref
    values: Ref
    kept: Ref
    sources: Ref = None


class Passing(NamedTuple):
    """Rows that pass by, of one sibling."""

    h: Ref
    g: Ref


class Made(NamedTuple):
    """Gradients of one sibling's weights."""

    da: Ref
    dbw: Ref
    dgamma: Ref


class KeptBack(NamedTuple):
    """What VMEM keeps of one sibling: its sums, and what dx is made of in the end."""

    da_sum: Ref
    dbw_sum: Ref
    dh: Ref
    dkept: Ref


class Scratch(NamedTuple):
    """What one sibling after the other takes."""

    z: Ref
    dh_t: Ref
    narrow_t: Ref
    da_out: Ref
    dbw_out: Ref
    words: Ref


class Refs(NamedTuple):
    """All that one sibling reads and writes; some are None without kept channels."""

    x: Ref
    dx: Ref
    by: Passing
    own: Resident
    made: Made
    back: KeptBack
    scratch: Scratch

    @property
    def rows(self) -> Rows:
        """All rows of the step."""
        return pl.ds(0, self.x.shape[0])

    @property
    def kept_rows(self) -> Rows:
        """Which rows of `narrow_t` and of `dbw_sum` are kept channels."""
        n_kept = 0 if self.own.values is None else self.own.values.shape[0]
        summed = round_up(n_kept, 32 // self.x.dtype.itemsize)
        return pl.ds(self.scratch.narrow_t.shape[0] - summed, n_kept)
