"""A LLaMA-style decoder with a choice of linear maps.

    x = embed(tokens)
    x = x + attention(norm(x));  x = x + down(silu(gate(h)) * up(h)),  h = norm(x)
    logits = head(norm(x))

Touvron et al., LLaMA, 2023, arXiv 2302.13971: RMSNorm before each part, rotary
positions, SwiGLU (Shazeer 2020, arXiv 2002.05202), no biases, untied head. With `Dense`
maps it equals `LlamaForCausalLM` of the transformers library. Differences: rows can
hold several documents (segment ids); `linear` builds the matrices; the SiLU of SwiGLU
can be dropped if the linear maps have an activation of their own; queries and keys can
be normalised; embeddings of another kind, such as those of an image, can come before
the tokens.

The blocks run under one `nn.scan`: parameters are stacked on a leading axis L, and
compile time is independent of depth. All products take (B*T, features) operands,
because XLA's CPU products of (B, T, features) operands take twice as long.
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from lostjax.nn.attention.attention import MAPS
from lostjax.nn.attention.mask import Seen, causal_bias
from lostjax.nn.attention.plain import Attend, plain_attention
from lostjax.nn.attention.rotary import rotary_angles
from lostjax.nn.block import Block
from lostjax.nn.linear.plain import Dense
from lostjax.nn.linear.projection import MakeLinear, Ungrouped
from lostjax.nn.norm import RMSNorm
from lostjax.nn.remat import RematPolicy
from lostjax.typing import Activation, Array, Float, Int


def keep_as_is(x_BTD: Array) -> Array:
    """Return x unchanged: the default `constrain`, for a model on one device."""
    return x_BTD


class Transformer(nn.Module):
    """A decoder-only language model.

    Attributes:
        vocab_size: number of token ids V.
        d_model: width D of the residual stream; divisible by n_heads.
        n_layers: number of blocks L.
        n_heads: number of heads H; the head width D/H must be even.
        d_hidden: hidden width F of the MLP.
        head_init: initialiser of the head's kernel.
        linear: factory of the maps q, k, v, o, gate, up and down, called with
            features=, name=, channel_groups= (1 except for o and down) and dtype=.
        mlp_activation: activation of the SwiGLU gate; None for the identity.
        qk_norm: normalise queries and keys (Henry et al. 2020, arXiv 2010.04245).
        rope_theta: base of the rotary wavelengths.
        norm_eps: epsilon of every RMSNorm.
        dtype: computation dtype. Parameters are float32; norms, softmax and logits are
            always computed in float32.
        remat: `jax.checkpoint` policy that decides which values of a block are saved
            for the backward pass; the others are recomputed. None saves all,
            `jax.checkpoint_policies.nothing_saveable` only the residual stream,
            `save_bottlenecks` also the bottlenecks of the linear maps, and
            `save_products` the outputs of all matrices.
        channel_groups: number of groups with equal counts of kept channels, in o and
            down.
        constrain: function applied to the residual stream (B, T, D) after the embedding
            and after each block, for example to constrain its sharding.
        constrain_embedded: function applied to the embeddings of the tokens before
            `constrain` is, for example to constrain them to the table's sharding.
        cache_length: positions of the KV cache; 0 for no cache.
        attend: attention implementation; not used with a KV cache.
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
    constrain_embedded: Callable[[Array], Array] = keep_as_is
    cache_length: int = 0
    attend: Attend = plain_attention

    def setup(self) -> None:
        """Build the head, which `unembed` uses outside of the compact method."""
        self.head = Dense(self.vocab_size, self.head_init, dtype=self.dtype)

    def __call__(
        self,
        tokens_BT: Int[Array, "B T"],
        *,
        segments_BT: Int[Array, "B T"] | None = None,
        positions_BT: Int[Array, "#B T"] | None = None,
        prefix_BPD: Float[Array, "B P D"] | None = None,
    ) -> Float[Array, "B T V"]:
        """Compute the logits of the next token at every position.

        Args:
            tokens_BT: token ids (B, T), in [0, V).
            segments_BT: document ids within each row, 0 for padding; None if each row
                is one document. A token attends to itself and to earlier tokens of its
                own document.
            positions_BT: positions within the document; None for 0, 1, .. T-1, counted
                from the end of the KV cache and of the prefix.
            prefix_BPD: embeddings (B, P, D) that come before the tokens, such as those
                of `PatchEncoder`, at positions 0 .. P-1 (after those in a KV cache).
                They are causal like tokens, belong to the document of the row's first
                token, and have no logits. None for no prefix.

        Returns:
            Logits (B, T, V), float32; row t scores the token after token t.

        Raises:
            ValueError: if n_heads does not divide d_model, D/H is odd, `segments_BT` is
                passed with a KV cache, P + T exceeds `cache_length`, or the prefix is
                not (B, P, D).
        """
        states_BTD = self.final_states(
            tokens_BT,
            segments_BT=segments_BT,
            positions_BT=positions_BT,
            prefix_BPD=prefix_BPD,
        )
        return self.unembed(states_BTD)

    @nn.compact
    def final_states(
        self,
        tokens_BT: Int[Array, "B T"],
        *,
        segments_BT: Int[Array, "B T"] | None = None,
        positions_BT: Int[Array, "#B T"] | None = None,
        prefix_BPD: Float[Array, "B P D"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Compute the residual stream after the final norm, the input of the head.

        Arguments and errors are those of `__call__`. A caller can pass the states to
        `unembed` in chunks, because the logits are by far the largest array.

        Returns:
            States of the tokens (B, T, D), of the module's dtype.
        """
        P = 0 if prefix_BPD is None else prefix_BPD.shape[1]
        length = P + tokens_BT.shape[1]
        self._check(length, segments_BT)
        start, row_positions_BT = self._advance(length)
        if positions_BT is None:
            positions_BT = row_positions_BT[:, P:]
        if prefix_BPD is not None:
            self._check_prefix(prefix_BPD, tokens_BT)
            positions_BT = _prepend(row_positions_BT[:, :P], positions_BT)
            if segments_BT is not None:
                segments_BT = _prepend(segments_BT[:, :1].repeat(P, 1), segments_BT)
        rotation = rotary_angles(
            positions_BT, d_head=self.d_model // self.n_heads, theta=self.rope_theta
        )
        seen = None
        if not self.cache_length:
            seen = Seen(causal_bias(length, segments_BT=segments_BT), segments_BT)
        embed = nn.Embed(
            self.vocab_size,
            self.d_model,
            dtype=self.dtype,
            embedding_init=nn.initializers.normal(0.02),
            name="embed",
        )
        x_BTD = self.constrain_embedded(embed(tokens_BT))
        if prefix_BPD is not None:
            x_BTD = _prepend(prefix_BPD.astype(self.dtype), x_BTD)
        x_BTD = self.constrain(x_BTD)
        x_BTD, _ = self._blocks()(x_BTD, rotation, seen, start)
        final_norm = RMSNorm(self.norm_eps, self.dtype, name="final_norm")
        states_BTD: Array = final_norm(x_BTD[:, P:])
        return states_BTD

    def unembed(self, states_BTD: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Multiply final states by the head.

        Args:
            states_BTD: output of `final_states`, for any T.

        Returns:
            Logits (B, T, V), float32.
        """
        B, T, _ = states_BTD.shape
        kernel_DV = self.head.weights(self.d_model).astype(self.dtype)
        # Accumulate in float32: bfloat16 logits would lose digits in the softmax.
        logits_NV = jnp.dot(
            states_BTD.reshape(B * T, self.d_model),
            kernel_DV,
            preferred_element_type=jnp.float32,
        )
        return logits_NV.reshape(B, T, self.vocab_size)

    def _blocks(self) -> nn.Module:
        """Build the stack of blocks under one `nn.scan`."""
        block = Block
        if self.remat is not None:
            # XLA cannot merge a scan body with its backward pass: no CSE to prevent.
            block = nn.remat(Block, policy=self.remat, prevent_cse=False)
        scanned = nn.scan(
            block,
            variable_axes=dict.fromkeys(
                ("params", "channels", "cache", "intermediates", MAPS), 0
            ),
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.n_layers,
            # Layers share no variable; skipping the check saves one trace of the block.
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
        """Return the number of cached positions, or None, and default positions."""
        if not self.cache_length:
            return None, jnp.arange(length)[None]
        count = self.variable("cache", "length", jnp.zeros, (), jnp.int32)
        start = count.value
        # `init` runs a forward pass too, which must leave the cache empty.
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
                f"the row has {length} positions: cache_length={self.cache_length}"
                " holds fewer"
            )

    def _check_prefix(self, prefix_BPD: Array, tokens_BT: Array) -> None:
        B, _, D = prefix_BPD.shape
        if (len(tokens_BT), self.d_model) != (B, D):
            raise ValueError(
                f"prefix_BPD has shape {prefix_BPD.shape}: must be ({len(tokens_BT)}, "
                f"P, {self.d_model}), for the rows of tokens_BT and d_model"
            )


def _prepend(first: Array, then: Array) -> Array:
    """Join along the positions; a leading axis of 1 is repeated."""
    rows = max(len(first), len(then))
    both = (jnp.broadcast_to(x, (rows, *x.shape[1:])) for x in (first, then))
    return jnp.concatenate(list(both), axis=1)
