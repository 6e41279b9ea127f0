"""Policies that decide which values of a block are saved for the backward pass.

A policy is that of `jax.checkpoint`: values that it does not save are computed again in
the backward pass. `save_bottlenecks` of `lostjax.nn.kernels.bottleneck` saves less than
`save_products`: only the bottlenecks of the linear maps.
"""

from collections.abc import Callable

import jax

from lostjax.nn.attention.plain import ATTENDED

RematPolicy = Callable[..., bool]
"""A `jax.checkpoint` policy: decides which intermediate values of a block are saved."""


save_products: RematPolicy = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(ATTENDED, "product"),
)
"""Save the outputs of the linear maps and of attention; recompute norms, rotations,
scores and activations. This takes half the memory of saving everything and is no
slower: on a CPU, writing and reading the other values takes longer than recomputing
them."""
