"""One layer of a decoder: attention and a SwiGLU MLP, each behind a norm.

    x = x + attention(norm(x));  x = x + down(silu(gate(h)) * up(h)),  h = norm(x)

SwiGLU: Shazeer, GLU Variants Improve Transformer, 2020, arXiv 2002.05202. Where the
linear maps have an activation inside, the SwiGLU's own may be dropped (as CoLA does
from 350M parameters on, arXiv 2502.10940): down(gate(h) * up(h)).
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from lostjax.nn.attention.attention import Attend, Attention, Rotation, Seen
from lostjax.nn.linear.projection import MakeLinear, project
from lostjax.nn.norm import RMSNorm
from lostjax.typing import Activation, Array, Float


class MLP(nn.Module):
    """SwiGLU: down(activation(gate(x)) * up(x)); no activation where it is None."""

    d_hidden: int
    linear: MakeLinear
    activation: Activation | None = nn.silu
    dtype: DTypeLike = jnp.float32
    channel_groups: int = 1

    @nn.compact
    def __call__(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Transform every position by itself."""
        D = x_BTD.shape[-1]
        inputs = [
            self.linear(
                features=self.d_hidden, name=name, channel_groups=1, dtype=self.dtype
            )
            for name in ("gate", "up")
        ]
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
    """Attention, then the MLP, each added to the residual stream."""

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
        """Return the residual stream after this block, and nothing to stack."""
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
