"""A trained `Transformer` for instruments that read it: attention, and embedded rows.

The parameters of the embedding and of the head are looked up by their names in the
variables; every other part of the model runs as it is.
"""

from typing import cast

import jax
import jax.numpy as jnp

from lostjax.nn.attention.attention import MAPS
from lostjax.nn.transformer import Transformer
from lostjax.typing import Array, Float, Int, Variables


def attention_maps(
    model: Transformer, variables: Variables, *, tokens_BT: Int[Array, "B T"]
) -> Float[Array, "B L H T T"]:
    """Compute the attention weights of every layer and head.

    Args:
      model: the model, without a KV cache. Its own attention kernel does not run twice:
        the weights are computed beside it, in float32.
      variables: parameters and channels of the model.
      tokens_BT: token ids (B, T), each row one document.

    Returns:
      Weights (B, L, H, T query, T key); rows have the sum 1, and weights of later keys
      are 0.
    """
    _, sown = model.apply(variables, tokens_BT, mutable=[MAPS], method="final_states")
    (maps_LBHTS,) = jax.tree.leaves(sown[MAPS])
    maps_BLHTS: Array = maps_LBHTS.swapaxes(0, 1)
    return maps_BLHTS


def embed_tokens(
    variables: Variables, tokens: Int[Array, "..."]
) -> Float[Array, "..."]:
    """Look up the embeddings of tokens, the rows that `embedded_logits` takes.

    Args:
      variables: variables of a `Transformer`.
      tokens: token ids, of any shape.

    Returns:
      Embeddings, of the tokens' shape and D.
    """
    table_VD: Array = variables["params"]["embed"]["embedding"]
    return table_VD[tokens]


def embedded_logits(
    model: Transformer,
    variables: Variables,
    *,
    x_TD: Float[Array, "T D"],
    at: Int[Array, ""] | int = -1,
) -> Float[Array, "V"]:
    """Compute the logits after a position of a row of embeddings instead of tokens.

    Args:
      model: the model, without a KV cache.
      variables: parameters and channels of the model.
      x_TD: embeddings (T, D), as of `embed_tokens`.
      at: the position; default the last.

    Returns:
      Logits (V,) of the token after that position, float32.
    """
    T = x_TD.shape[0]
    # The embedding's own lookup, in a table of the row: it has no other entrance.
    params = {**variables["params"], "embed": {"embedding": x_TD}}
    reader = model.clone(vocab_size=T, parent=None)
    states = reader.apply(
        {**variables, "params": params}, jnp.arange(T)[None], method="final_states"
    )
    state_BTD = cast(Array, states)[:, at][:, None]
    logits = model.apply(variables, state_BTD, method="unembed")
    return cast(Array, logits)[0, 0]
