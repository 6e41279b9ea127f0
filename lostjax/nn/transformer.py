"""A LLaMA-style decoder whose matrices may be any linear map of `nn.linear`.

    x = embed(tokens)
    x = x + attention(norm(x));  x = x + down(silu(gate(h)) * up(h)),  h = norm(x)
    logits = head(norm(x))

Touvron et al., LLaMA, 2023, arXiv 2302.13971: RMSNorm before each part, rotary
positions, SwiGLU (Shazeer 2020, arXiv 2002.05202), no biases, untied head. In dense
form it computes what transformers' `LlamaForCausalLM` computes. Differences: rows may
hold several documents (segment ids); matrices are made by `linear`; SwiGLU's SiLU may
be dropped where the linear maps have their own; queries and keys may be normed.

The blocks run under one `nn.scan`: their parameters are stacked on a leading axis L,
and compile time does not grow with depth. Every product is over (B*T, features): XLA's
CPU products over (B, T, features) take twice as long.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from lostjax.nn.attention.attention import (
    ATTENDED,
    Attend,
    Seen,
    causal_bias,
    plain_attention,
    rotary_angles,
)
from lostjax.nn.block import Block
from lostjax.nn.linear.plain import Dense
from lostjax.nn.linear.projection import MakeLinear, Ungrouped
from lostjax.nn.norm import RMSNorm
from lostjax.typing import Activation, Array, Float, Int

RematPolicy = Callable[..., bool]
"""A `jax.checkpoint` policy: which intermediate values of a block to keep."""


save_products: RematPolicy = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(ATTENDED, "product"),
)
"""Keep what the linear maps and attention put out; recompute norms, rotations, scores
and activations. Half the memory of keeping all, and no slower: a CPU spends longer on
writing the rest to memory and reading it back than on computing it again."""


def keep_as_is(x_BTD: Array) -> Array:
    """Constrain nothing: the `constrain` of a model on one device."""
    return x_BTD


class Transformer(nn.Module):
    """A decoder-only language model.

    Attributes:
        vocab_size: V, number of token ids.
        d_model: D, width of the residual stream; divisible by n_heads.
        n_layers: L, number of blocks.
        n_heads: H; the head width D/H must be even.
        d_hidden: F, width inside the MLP.
        head_init: draws the head's kernel.
        linear: makes the maps q, k, v, o, gate, up, down when called with features=,
            name=, channel_groups= (1 but for o and down) and dtype=.
        mlp_activation: what SwiGLU applies to its gate, or None.
        qk_norm: norm queries and keys (Henry et al. 2020, arXiv 2010.04245).
        rope_theta: base of the rotary wavelengths.
        norm_eps: added to the mean square by every norm.
        dtype: of the computation; parameters are float32, norms, softmax and logits
            computed in it.
        remat: None keeps every intermediate value for the backward pass; a
            `jax.checkpoint` policy keeps what it names and recomputes the rest:
            `jax.checkpoint_policies.nothing_saveable` keeps only the residual stream,
            `save_bottlenecks` also the narrow middles of the linear maps,
            `save_products` what leaves every matrix.
        channel_groups: groups of equally many kept channels in o and down.
        constrain: applied to the residual stream (B, T, D) after the embedding and
            after each block, as to pin its sharding.
        cache_length: 0, or how many positions the KV cache holds.
        attend: lets queries gather values, except with a cache.
    """

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    d_hidden: int
    head_init: Initializer = nn.initializers.normal(0.02)
    linear: MakeLinear = Ungrouped(Dense)
    mlp_activation: Activation | None = nn.silu
    qk_norm: bool = False
    rope_theta: float = 1e4
    norm_eps: float = 1e-6
    dtype: DTypeLike = jnp.float32
    remat: RematPolicy | None = None
    channel_groups: int = 1
    constrain: Callable[[Array], Array] = keep_as_is
    cache_length: int = 0
    attend: Attend = plain_attention

    def setup(self) -> None:
        """Name the head; everything else is made where it is used."""
        self.head = Dense(self.vocab_size, self.head_init, dtype=self.dtype)

    def __call__(
        self,
        tokens_BT: Int[Array, "B T"],
        *,
        segments_BT: Int[Array, "B T"] | None = None,
        positions_BT: Int[Array, "#B T"] | None = None,
    ) -> Float[Array, "B T V"]:
        """Score every next token.

        Args:
            tokens_BT: token ids in [0, V).
            segments_BT: document ids within each row, 0 for padding; None for one
                document a row. A token sees earlier tokens of its document only.
            positions_BT: positions in the document; None for 0, 1, .. T-1 (counted from
                the cache's end where there is one).

        Returns:
            Logits (B, T, V), float32; row t scores the token that follows token t.

        Raises:
            ValueError: sizes that do not fit each other, or segments with a cache.
        """
        states_BTD = self.final_states(
            tokens_BT, segments_BT=segments_BT, positions_BT=positions_BT
        )
        return self.unembed(states_BTD)

    @nn.compact
    def final_states(
        self,
        tokens_BT: Int[Array, "B T"],
        *,
        segments_BT: Int[Array, "B T"] | None = None,
        positions_BT: Int[Array, "#B T"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Compute what the head scores: the residual stream after the final norm.

        Args and errors are those of `__call__`. With `unembed` it lets a caller score
        some positions at a time, for the logits are by far the largest array.

        Returns:
            States (B, T, D), of the module's dtype.
        """
        T = tokens_BT.shape[1]
        self._check(T, segments_BT)
        start, default_positions_BT = self._advance(T)
        if positions_BT is None:
            positions_BT = default_positions_BT
        rotation = rotary_angles(
            positions_BT, d_head=self.d_model // self.n_heads, theta=self.rope_theta
        )
        seen = None
        if not self.cache_length:
            seen = Seen(causal_bias(T, segments_BT=segments_BT), segments_BT)
        embed = nn.Embed(
            self.vocab_size,
            self.d_model,
            dtype=self.dtype,
            embedding_init=nn.initializers.normal(0.02),
            name="embed",
        )
        x_BTD = self.constrain(embed(tokens_BT))
        x_BTD, _ = self._blocks()(x_BTD, rotation, seen, start)
        final_norm = RMSNorm(self.norm_eps, self.dtype, name="final_norm")
        states_BTD: Array = final_norm(x_BTD)
        return states_BTD

    def unembed(self, states_BTD: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Multiply final states with the head: logits (B, T, V), float32."""
        B, T, _ = states_BTD.shape
        kernel_DV = self.head.weights(self.d_model).astype(self.dtype)
        logits_NV = jnp.dot(
            states_BTD.reshape(B * T, self.d_model),
            kernel_DV,
            preferred_element_type=jnp.float32,
        )
        return logits_NV.reshape(B, T, self.vocab_size)

    def _blocks(self) -> nn.Module:
        """Make the scanned stack of blocks."""
        block = Block
        if self.remat is not None:
            # A scan's body cannot be merged with its backward twin: no CSE to prevent.
            block = nn.remat(Block, policy=self.remat, prevent_cse=False)
        scanned = nn.scan(
            block,
            variable_axes={"params": 0, "channels": 0, "cache": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.n_layers,
            # No variable is shared by the layers: spares a second trace of the block.
            check_constancy_invariants=False,
        )
        return scanned(
            n_heads=self.n_heads,
            d_hidden=self.d_hidden,
            linear=self.linear,
            mlp_activation=self.mlp_activation,
            qk_norm=self.qk_norm,
            norm_eps=self.norm_eps,
            dtype=self.dtype,
            channel_groups=self.channel_groups,
            constrain=self.constrain,
            cache_length=self.cache_length,
            attend=self.attend,
            name="layers",
        )

    def _advance(self, length: int) -> tuple[Array | None, Array]:
        """Return the cache's length (None without one) and the default positions."""
        if not self.cache_length:
            return None, jnp.arange(length)[None]
        count = self.variable("cache", "length", jnp.zeros, (), jnp.int32)
        start = count.value
        if not self.is_initializing():
            count.value = start + length
        return start, start + jnp.arange(length)[None]

    def _check(self, length: int, segments_BT: Array | None) -> None:
        if self.d_model % self.n_heads:
            raise ValueError(
                f"d_model={self.d_model}: must be divisible by n_heads={self.n_heads}"
            )
        if self.cache_length and segments_BT is not None:
            raise ValueError(
                "segments_BT: must be None with a cache (cache_length > 0)"
            )
        if self.cache_length and length > self.cache_length:
            raise ValueError(
                f"tokens_BT has {length} positions: cache_length={self.cache_length}"
                " holds fewer"
            )
