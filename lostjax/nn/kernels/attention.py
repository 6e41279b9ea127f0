"""Attention whose scores never reach HBM, by kernels that others keep.

XLA writes the scores of every head out, (T, T) in float32, and reads them again: at 1b,
with 32 heads and rows of 256 tokens, more bytes than all matrices of a LOST layer put
out. Flash attention (Dao et al., FlashAttention, 2022, arXiv 2205.14135) keeps a tile
of them on the chip, and makes them again in the backward pass, which costs a product
more.

`cudnn_attention` is NVIDIA's (Ampere and newer, 16-bit types), by way of
`jax.nn.dot_product_attention`; `splash_attention` is JAX's Pallas kernel for TPUs. Both
compute what `nn.attention.attention.plain_attention` computes, and fall back on it if
they cannot be had; the log says why. Neither was run on its hardware here:
splash's values are right in the interpreter, cuDNN's programs compile.

cuDNN knows documents by a bias (B, 1, T, T) of 16 bits, which each layer makes anew;
JAX 0.10 has its gradient written, too, which nobody reads. Its backward pass wants sums
that no remat policy can name: where a policy keeps attention's output alone, its
forward pass runs again.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
)
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as Spec

from lostjax.nn.attention.attention import ATTENDED, Attend, Seen, plain_attention
from lostjax.nn.kernels.kernel_form import log_once
from lostjax.typing import Array, Float

BLOCKS = (512, 256, 128)
"""Queries, and keys, that a step of the TPU's kernel takes, the best first."""


def cudnn_attention(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T H K"],
    v_BTHK: Float[Array, "B T H K"],
    seen: Seen,
) -> jax.Array:
    """Attend by cuDNN's flash attention, on one NVIDIA GPU.

    Args:
        q_BTHK: queries, rotated; T is even, K a multiple of 8 up to 128.
        k_BTHK: keys, rotated.
        v_BTHK: values.
        seen: what each query sees, the future hidden.

    Returns:
        What the queries gather (B, T, H, K).
    """
    if reason := _why_not_cudnn(q_BTHK):
        return _fall_back(reason, q_BTHK, k_BTHK, v_BTHK, seen)
    mask = None
    if seen.segments_BT is not None:
        mask = (seen.segments_BT[:, :, None] == seen.segments_BT[:, None, :])[:, None]
    try:
        y_BTHK = jax.nn.dot_product_attention(
            q_BTHK, k_BTHK, v_BTHK, mask=mask, is_causal=True, implementation="cudnn"
        )
    except RuntimeError as error:
        if "cuDNN" not in str(error):
            raise
        reason = f"{error} (pip install 'jax[cuda12]' brings it)"
        return _fall_back(reason, q_BTHK, k_BTHK, v_BTHK, seen)
    named: jax.Array = checkpoint_name(y_BTHK, ATTENDED)
    return named


def _why_not_cudnn(q_BTHK: jax.Array) -> str | None:
    # JAX asks some of it only while gradients are made: too late to fall back.
    _, T, _, K = q_BTHK.shape
    if _platform() != "gpu":
        return "cuDNN is for GPUs"
    if q_BTHK.dtype not in (jnp.bfloat16, jnp.float16):
        return f"cuDNN attends in bfloat16 and float16, not in {q_BTHK.dtype}"
    if T % 2:
        return f"cuDNN takes rows of an even number of tokens, not {T}"
    if K > 128 or K % 8:
        return f"cuDNN takes heads of a multiple of 8 up to 128, not {K}"
    return None


def splash_attention(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T H K"],
    v_BTHK: Float[Array, "B T H K"],
    seen: Seen,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Attend by JAX's splash attention, on one TPU.

    Args:
        q_BTHK: queries, rotated; 128 divides T.
        k_BTHK: keys, rotated.
        v_BTHK: values.
        seen: what each query sees, the future hidden.
        interpret: run anywhere, slowly.

    Returns:
        What the queries gather (B, T, H, K).
    """
    _, T, H, K = q_BTHK.shape
    block = next((block for block in BLOCKS if T % block == 0), None)
    if _platform() != "tpu" and not interpret:
        return _fall_back("splash attention is for TPUs", q_BTHK, k_BTHK, v_BTHK, seen)
    if block is None:
        reason = f"splash attention takes rows of a multiple of 128 tokens, not {T}"
        return _fall_back(reason, q_BTHK, k_BTHK, v_BTHK, seen)
    kernel = splash.make_splash_mha_single_device(
        masks.MultiHeadMask([masks.CausalMask((T, T))] * H),
        block_sizes=_square_blocks(block),
        residual_checkpoint_name=ATTENDED,
        interpret=interpret,
    )

    def one_row(
        q_THK: jax.Array, k_THK: jax.Array, v_THK: jax.Array, segments_T: Any
    ) -> jax.Array:
        ids = None if segments_T is None else splash.SegmentIds(segments_T, segments_T)
        heads_first = (each.swapaxes(0, 1) for each in (q_THK, k_THK, v_THK))
        y_HTK: jax.Array = kernel(*heads_first, segment_ids=ids)
        return y_HTK.swapaxes(0, 1)

    scaled_BTHK = (q_BTHK.astype(jnp.float32) / math.sqrt(K)).astype(q_BTHK.dtype)
    return jax.vmap(one_row)(scaled_BTHK, k_BTHK, v_BTHK, seen.segments_BT)


def _square_blocks(size: int) -> Any:
    return splash.BlockSizes(
        block_q=size,
        block_kv=size,
        block_q_dkv=size,
        block_kv_dkv=size,
        use_fused_bwd_kernel=True,
    )


@dataclasses.dataclass(frozen=True)
class ShardedAttention:
    """Attends on a mesh: every device its own rows, and its own heads.

    XLA can cut its own products over devices, but not a kernel.

    Attributes:
        attend: what a device does.
        mesh: the devices.
        rows: mesh axes that cut the batch.
        heads: mesh axis that cuts the heads.

    Raises:
        ValueError: an axis that the mesh does not have.
    """

    attend: Attend
    mesh: Mesh
    rows: tuple[str, ...]
    heads: str

    def __post_init__(self) -> None:
        """Refuse axes that the mesh does not have."""
        for axis in (*self.rows, self.heads):
            if axis not in self.mesh.shape:
                raise ValueError(
                    f"axis {axis!r} is not one of the mesh's: "
                    f"{', '.join(self.mesh.axis_names)}"
                )

    def __call__(
        self, q_BTHK: jax.Array, k_BTHK: jax.Array, v_BTHK: jax.Array, seen: Seen
    ) -> jax.Array:
        """Let every query gather values, (B, T, H, K)."""
        B, _, H, _ = q_BTHK.shape
        n_rows = math.prod(self.mesh.shape[axis] for axis in self.rows)
        n_heads = self.mesh.shape[self.heads]
        if B % n_rows or H % n_heads:
            reason = f"{B} rows of {H} heads are not cut evenly {n_rows} by {n_heads}"
            return _fall_back(reason, q_BTHK, k_BTHK, v_BTHK, seen)
        rows, heads = Spec(self.rows), Spec(self.rows, None, self.heads)
        seen_specs = jax.tree.map(
            lambda array: rows if array.shape[0] == B else Spec(), seen
        )
        attend: Attend = jax.shard_map(
            self.attend,
            mesh=self.mesh,
            in_specs=(heads, heads, heads, seen_specs),
            out_specs=heads,
            check_vma=False,  # a kernel does not say over which axes its results vary
        )
        return attend(q_BTHK, k_BTHK, v_BTHK, seen)


def _platform() -> str:
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    return str(device.platform)


def _fall_back(
    reason: str, q: jax.Array, k: jax.Array, v: jax.Array, seen: Seen
) -> jax.Array:
    log_once(f"XLA's form of attention, no kernel: {reason}")
    return plain_attention(q, k, v, seen)
