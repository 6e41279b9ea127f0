"""Flash attention by third-party kernels, which never write the scores to HBM.

XLA writes the scores of every head, (T, T) in float32, and reads them again. At 1b,
with 32 heads and rows of 256 tokens, these are more bytes than the outputs of all
matrices of a LOST layer. Flash attention (Dao et al., FlashAttention, 2022, arXiv
2205.14135) keeps one tile of scores on the chip and recomputes it in the backward pass,
at the cost of one more product.

`cudnn_attention` calls NVIDIA's implementation (Ampere and newer, 16-bit types) through
`jax.nn.dot_product_attention`; `splash_attention` calls JAX's Pallas kernel for TPUs.
Both compute the same as `nn.attention.plain.plain_attention`. If they are not
available, they fall back to it and log the reason. Neither has been run on its
hardware: the values of splash attention were checked in the interpreter, and cuDNN
programs were only compiled.

cuDNN receives documents as a 16-bit bias (B, 1, T, T), which each layer builds anew;
JAX 0.10 also writes a gradient of this bias, which is not used. Its backward pass needs
sums that a remat policy cannot name: if a policy saves only the output of attention,
the forward pass is recomputed.
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

from lostjax.nn.attention.mask import Seen
from lostjax.nn.attention.plain import ATTENDED, Attend, plain_attention
from lostjax.nn.kernels.kernel_form import log_once
from lostjax.typing import Array, Float

BLOCKS = (512, 256, 128)
"""Allowed numbers of queries and keys per kernel step, in order of preference."""


def cudnn_attention(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T H K"],
    v_BTHK: Float[Array, "B T H K"],
    seen: Seen,
) -> jax.Array:
    """Compute attention with cuDNN's flash attention, on one NVIDIA GPU.

    Args:
        q_BTHK: rotated queries (B, T, H, K); T even, K a multiple of 8, at most 128.
        k_BTHK: rotated keys (B, T, H, K).
        v_BTHK: values (B, T, H, K).
        seen: mask information, causal.

    Returns:
        Weighted sums of values (B, T, H, K). If cuDNN does not support the input, XLA
        computes them, and the reason is logged once.
    """
    if reason := _why_not_cudnn(q_BTHK):
        return _fall_back(reason, q_BTHK, k_BTHK, v_BTHK, seen)
    # A mask of segments only: cuDNN applies the causal mask without reading a bias.
    mask = None
    if seen.segments_BT is not None:
        mask = (seen.segments_BT[:, :, None] == seen.segments_BT[:, None, :])[:, None]
    try:
        y_BTHK = jax.nn.dot_product_attention(
            q_BTHK, k_BTHK, v_BTHK, mask=mask, is_causal=True, implementation="cudnn"
        )
    except RuntimeError as error:
        # Other RuntimeErrors are not about a missing library.
        if "cuDNN" not in str(error):
            raise
        reason = f"{error} (install it with: pip install 'jax[cuda12]')"
        return _fall_back(reason, q_BTHK, k_BTHK, v_BTHK, seen)
    named: jax.Array = checkpoint_name(y_BTHK, ATTENDED)
    return named


def _why_not_cudnn(q_BTHK: jax.Array) -> str | None:
    # JAX checks some of this only while differentiating, too late to fall back.
    _, T, _, K = q_BTHK.shape
    if _platform() != "gpu":
        return "cuDNN attention needs a GPU"
    if q_BTHK.dtype not in (jnp.bfloat16, jnp.float16):
        return f"cuDNN attention supports bfloat16 and float16, not {q_BTHK.dtype}"
    if T % 2:
        return f"cuDNN attention needs rows of an even number of tokens, not {T}"
    if K > 128 or K % 8:
        return f"cuDNN attention needs a head width divisible by 8, up to 128, not {K}"
    return None


def splash_attention(
    q_BTHK: Float[Array, "B T H K"],
    k_BTHK: Float[Array, "B T H K"],
    v_BTHK: Float[Array, "B T H K"],
    seen: Seen,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Compute attention with JAX's splash attention, on one TPU.

    Args:
        q_BTHK: rotated queries (B, T, H, K); T a multiple of 128.
        k_BTHK: rotated keys (B, T, H, K).
        v_BTHK: values (B, T, H, K).
        seen: mask information, causal.
        interpret: run in Pallas's interpreter, slowly, on any platform.

    Returns:
        Weighted sums of values (B, T, H, K). If the kernel does not support the input,
        XLA computes them, and the reason is logged once.
    """
    _, T, H, K = q_BTHK.shape
    block = next((block for block in BLOCKS if T % block == 0), None)
    if _platform() != "tpu" and not interpret:
        return _fall_back("splash attention needs a TPU", q_BTHK, k_BTHK, v_BTHK, seen)
    if block is None:
        reason = f"splash attention needs rows of a multiple of 128 tokens, not {T}"
        return _fall_back(reason, q_BTHK, k_BTHK, v_BTHK, seen)
    kernel = splash.make_splash_mha_single_device(
        # The mask is static: the kernel skips blocks that are entirely masked.
        masks.MultiHeadMask([masks.CausalMask((T, T))] * H),
        block_sizes=_square_blocks(block),
        # Named for remat policies: the backward pass needs the sums of exponentials.
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

    # The kernel does not scale the scores; scale q in float32, then round once.
    scaled_BTHK = (q_BTHK.astype(jnp.float32) / math.sqrt(K)).astype(q_BTHK.dtype)
    return jax.vmap(one_row)(scaled_BTHK, k_BTHK, v_BTHK, seen.segments_BT)


def _square_blocks(size: int) -> Any:
    return splash.BlockSizes(
        block_q=size,
        block_kv=size,
        block_q_dkv=size,
        block_kv_dkv=size,
        # The fused backward kernel computes the scores once for dq, dk and dv.
        use_fused_bwd_kernel=True,
    )


@dataclasses.dataclass(frozen=True)
class ShardedAttention:
    """Attention on a mesh: every device processes its own rows and heads.

    XLA can partition its own products over devices, but not a kernel.

    Attributes:
        attend: attention implementation of a single device.
        mesh: the device mesh.
        rows: mesh axes over which the batch is sharded.
        heads: mesh axis over which the heads are sharded.

    Raises:
        ValueError: if an axis is not in the mesh.
    """

    attend: Attend
    mesh: Mesh
    rows: tuple[str, ...]
    heads: str

    def __post_init__(self) -> None:
        """Check that all axes are in the mesh."""
        for axis in (*self.rows, self.heads):
            if axis not in self.mesh.shape:
                raise ValueError(
                    f"axis {axis!r} is not a mesh axis; the mesh has "
                    f"{', '.join(self.mesh.axis_names)}"
                )

    def __call__(
        self, q_BTHK: jax.Array, k_BTHK: jax.Array, v_BTHK: jax.Array, seen: Seen
    ) -> jax.Array:
        """Compute attention, see `Attend`; returns (B, T, H, K)."""
        B, _, H, _ = q_BTHK.shape
        n_rows = math.prod(self.mesh.shape[axis] for axis in self.rows)
        n_heads = self.mesh.shape[self.heads]
        if B % n_rows or H % n_heads:
            reason = f"{B} rows of {H} heads do not split over {n_rows} x {n_heads}"
            return _fall_back(reason, q_BTHK, k_BTHK, v_BTHK, seen)
        rows, heads = Spec(self.rows), Spec(self.rows, None, self.heads)
        seen_specs = jax.tree.map(
            # A leading 1 instead of B: shared by all rows, hence replicated.
            lambda array: rows if array.shape[0] == B else Spec(),
            seen,
        )
        attend: Attend = jax.shard_map(
            self.attend,
            mesh=self.mesh,
            in_specs=(heads, heads, heads, seen_specs),
            out_specs=heads,
            check_vma=False,  # Pallas outputs do not declare the axes they vary over
        )
        return attend(q_BTHK, k_BTHK, v_BTHK, seen)


def _platform() -> str:
    # Ahead-of-time compilation sets an abstract device, which is not in this process.
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    return str(device.platform)


def _fall_back(
    reason: str, q: jax.Array, k: jax.Array, v: jax.Array, seen: Seen
) -> jax.Array:
    log_once(f"attention uses XLA, not a kernel: {reason}")
    return plain_attention(q, k, v, seen)
