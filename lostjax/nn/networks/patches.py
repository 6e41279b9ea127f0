"""Images as embeddings for a language model: bare patches, or a small encoder.

    x_p = W patch_p + b + e_p                       patches of s x s pixels, row by row
    x   = x + attention(norm(x));  x = x + MLP(norm(x))         n_layers of them

With `n_layers=0` the language model sees the patches themselves, as in Fuyu; with more
it sees what a vision transformer makes of them: Dosovitskiy et al., "An Image is Worth
16x16 Words: Transformers for Image Recognition at Scale", 2020, arXiv:2010.11929. Chen
et al., "Prioritizing Image-Related Tokens Enhances Vision-Language Pre-Training", 2025,
arXiv:2505.08971, train both kinds. Every patch attends to every other one. The blocks
are those of `Transformer` (RMSNorm, SwiGLU, no biases) with learnt positions e_p
instead of rotary ones.

Cost for each image of P patches with C channels: 2 P s^2 C D FLOPs forward for the
embedding, and 2 P (4 D^2 + 3 D F + 2 P D) for each layer.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from lostjax.nn.attention.mask import Seen
from lostjax.nn.attention.rotary import rotary_angles
from lostjax.nn.block import Block
from lostjax.nn.linear.plain import Dense
from lostjax.nn.linear.projection import MakeLinear, Ungrouped
from lostjax.nn.norm import RMSNorm
from lostjax.typing import Array, Float


class PatchEncoder(nn.Module):
    """Embeds images as the prefix of a `Transformer`.

    Attributes:
        patch: side s of a patch in pixels; divides height and width.
        d_model: width D of the embeddings, that of the language model.
        n_layers: blocks between the patches and the language model; 0 for bare patches.
        n_heads: attention heads of each block; D / n_heads must be even.
        d_hidden: hidden width F of each block's MLP.
        linear: factory of the blocks' maps, as of `Transformer`.
        dtype: computation dtype; parameters are float32.

    Example:
        prefix_BPD = encoder.apply(variables, images_BHWC)
        logits_BTV = model.apply(model_variables, tokens_BT, prefix_BPD=prefix_BPD)
    """

    patch: int
    d_model: int
    n_layers: int = 0
    n_heads: int = 4
    d_hidden: int = 256
    linear: MakeLinear = Ungrouped(Dense)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B P D"]:
        """Embed the patches of images.

        Args:
            images_BHWC: images (B, H, W, C); centred values train best.

        Returns:
            Embeddings (B, P, D), P = H W / s^2, row by row from the top left.

        Raises:
            ValueError: if the patch does not divide height and width, or the heads do
                not divide D into even widths.
        """
        x_BPM = cut_patches(images_BHWC, patch=self.patch)
        if self.n_layers and self.d_model % (2 * self.n_heads):
            raise ValueError(
                f"n_heads={self.n_heads}: must divide d_model={self.d_model} into even "
                "widths"
            )
        embed = nn.Dense(
            self.d_model,
            kernel_init=nn.initializers.lecun_normal(),
            dtype=self.dtype,
            name="embed",
        )
        # The scale of the language model's own embeddings.
        places = nn.initializers.normal(0.02)
        shape = (x_BPM.shape[1], self.d_model)
        positions_PD = self.param("positions", places, shape).astype(self.dtype)
        x_BPD: Array = embed(x_BPM) + positions_PD
        if not self.n_layers:
            return x_BPD
        P = shape[0]
        # Angles of 0 turn nothing: positions are in the embeddings already.
        rotation = rotary_angles(
            jnp.zeros((1, P), jnp.int32), d_head=self.d_model // self.n_heads
        )
        seen = Seen(jnp.zeros((1, 1, P, P)), None)
        for index in range(self.n_layers):
            block = self._block(f"layer_{index}")
            x_BPD, _ = block(x_BPD, rotation, seen, None)
        encoded_BPD: Array = RMSNorm(dtype=self.dtype, name="final_norm")(x_BPD)
        return encoded_BPD

    def _block(self, name: str) -> Block:
        return Block(
            n_heads=self.n_heads,
            d_hidden=self.d_hidden,
            linear=self.linear,
            mlp_activation=nn.silu,
            qk_norm=False,
            norm_eps=1e-6,
            dtype=self.dtype,
            channel_groups=1,
            constrain=lambda x: x,
            cache_length=0,
            attend=attend_to_all,
            name=name,
        )


def cut_patches(
    images_BHWC: Float[Array, "B H W C"], *, patch: int
) -> Float[Array, "B P M"]:
    """Cut images into square patches, row by row from the top left.

    Args:
      images_BHWC: images (B, H, W, C).
      patch: side s of a patch in pixels; divides height and width.

    Returns:
      The pixels of each patch, (B, H W / s^2, s^2 C).

    Raises:
      ValueError: if the patch does not divide height and width.
    """
    B, H, W, C = images_BHWC.shape
    if patch < 1 or H % patch or W % patch:
        raise ValueError(f"patch={patch}: must divide the height {H} and the width {W}")
    grid = images_BHWC.reshape(B, H // patch, patch, W // patch, patch, C)
    return grid.swapaxes(2, 3).reshape(B, -1, patch * patch * C)


def attend_to_all(q: Array, k: Array, v: Array, seen: Seen) -> jax.Array:
    """Attend to all positions; heads are (B, P, H, K), and the mask is not used."""
    del seen  # a part of the signature; every patch sees every other one
    attended: jax.Array = jax.nn.dot_product_attention(q, k, v)
    return attended
