"""One decoder layer: self-attention and a SwiGLU MLP, each with pre-normalisation.

    x = x + attention(norm(x));  x = x + down(silu(gate(h)) * up(h)),  h = norm(x)

SwiGLU: Shazeer, GLU Variants Improve Transformer, 2020, arXiv 2002.05202. If the linear
maps contain an activation of their own, the SiLU of SwiGLU can be dropped, as CoLA does
from 350M parameters on (arXiv 2502.10940): down(gate(h) * up(h)).
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from lostjax.nn.attention.attention import Attention
from lostjax.nn.attention.mask import Seen
from lostjax.nn.attention.plain import Attend
from lostjax.nn.attention.rotary import Rotation
from lostjax.nn.linear.projection import MakeLinear, project
from lostjax.nn.norm import RMSNorm
from lostjax.typing import Activation, Array, Float


class MLP(nn.Module):
    """SwiGLU feed-forward network: `down(activation(gate(x)) * up(x))`.

    Attributes:
        d_hidden: hidden width F.
        linear: factory of the maps gate, up and down.
        activation: function applied to the gate; None for the identity.
        dtype: computation dtype.
        channel_groups: number of channel groups of the map `down`.
    """

    d_hidden: int
    linear: MakeLinear
    activation: Activation | None = nn.silu
    dtype: DTypeLike = jnp.float32
    channel_groups: int = 1

    @nn.compact
    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Apply the network to every position independently.

        Args:
            x_BTD: normalised residual stream (B, T, D).

        Returns:
            The update of the residual stream, (B, T, D).
        """
        D = x_BTD.shape[-1]
        inputs = [
            self.linear(
                features=self.d_hidden, name=name, channel_groups=1, dtype=self.dtype
            )
            for name in ("gate", "up")
        ]
        # One (B*T, D) matrix: XLA's CPU product of a 3-d operand takes twice as long.
        gate_NF, up_NF = project(inputs, x_BTD.reshape(-1, D))
        if self.activation is not None:
            gate_NF = self.activation(gate_NF)
        down = self.linear(
            features=D,
            name="down",
            channel_groups=self.channel_groups,
            dtype=self.dtype,
        )
        return down(gate_NF * up_NF).reshape(x_BTD.shape)


class Block(nn.Module):
    """Transformer block: attention and MLP with residual connections.

    The attributes are those of `lostjax.nn.transformer.Transformer`.
    """

    n_heads: int
    d_hidden: int
    linear: MakeLinear
    mlp_activation: Activation | None
    qk_norm: bool
    norm_eps: float
    dtype: DTypeLike
    channel_groups: int
    constrain: Callable[[Array], Array]
    cache_length: int
    attend: Attend

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        rotation: Rotation,
        seen: Seen | None,
        start: Array | None,
    ) -> tuple[Array, None]:
        """Apply the block.

        Args:
            x_BTD: residual stream (B, T, D).
            rotation: rotary sines and cosines of the positions of x.
            seen: mask information of each position; None with a KV cache.
            start: number of positions already in the KV cache; None without a cache.

        Returns:
            The residual stream after the block, and None: `nn.scan` expects a second
            output to stack over layers.
        """
        attention = Attention(
            self.n_heads,
            self.linear,
            qk_norm=self.qk_norm,
            norm_eps=self.norm_eps,
            dtype=self.dtype,
            channel_groups=self.channel_groups,
            cache_length=self.cache_length,
            attend=self.attend,
            name="attention",
        )
        mlp = MLP(
            self.d_hidden,
            self.linear,
            activation=self.mlp_activation,
            dtype=self.dtype,
            channel_groups=self.channel_groups,
            name="mlp",
        )
        h_BTD = RMSNorm(self.norm_eps, self.dtype, name="attention_norm")(x_BTD)
        x_BTD = x_BTD + attention(h_BTD, rotation, seen, start)
        h_BTD = RMSNorm(self.norm_eps, self.dtype, name="mlp_norm")(x_BTD)
        return self.constrain(x_BTD + mlp(h_BTD)), None
