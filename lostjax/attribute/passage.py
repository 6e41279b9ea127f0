"""A prompt and the tokens after it, read by a model: the callables of attribution.

    row     end-of-text, prompt (T tokens), continuation (G tokens)
    token i of the continuation is predicted at position T + i of the row

The attribution is to the T tokens of the prompt; the rest of the row stays as it is. A
row has the same length for all tokens of the continuation, so that every method is
compiled once: the model is causal, and what comes after a position does not count.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp

from lostjax.nn import Transformer, attention_maps, embed_tokens, embedded_logits
from lostjax.typing import Array, Variables


class Passage(NamedTuple):
    """A row of tokens, and the place in it whose next token is explained."""

    variables: Variables
    row_N: Array
    """Token ids (N,): end-of-text, prompt, continuation without its last token."""
    n_prompt: int
    """T."""
    at: Array
    """Position whose next token is explained."""
    target: Array
    """That token's id."""

    @property
    def prompt_T(self) -> Array:
        """Token ids of the prompt (T,)."""
        return self.row_N[1 : 1 + self.n_prompt]

    @property
    def prompt_TD(self) -> Array:
        """Embeddings of the prompt (T, D)."""
        return embed_tokens(self.variables, self.prompt_T)


def probs_of_prompts(model: Transformer, passage: Passage) -> Callable[[Array], Array]:
    """Return the probabilities of the explained token by the prompt's tokens."""

    def token_probs_fn(tokens_BT: Array) -> Array:
        rows_BN = jnp.tile(passage.row_N, (len(tokens_BT), 1))
        rows_BN = rows_BN.at[:, 1 : 1 + passage.n_prompt].set(tokens_BT)
        states_BND = cast(
            Array, model.apply(passage.variables, rows_BN, method="final_states")
        )
        # One position's logits: those of a row would be most of the work.
        state_B1D = states_BND[:, passage.at][:, None]
        logits_B1V = cast(
            Array, model.apply(passage.variables, state_B1D, method="unembed")
        )
        return jax.nn.softmax(logits_B1V[:, 0])

    return token_probs_fn


def logits_of_prompt(model: Transformer, passage: Passage) -> Callable[[Array], Array]:
    """Return the logits of the explained token by the prompt's embeddings."""

    def logits_from_embeddings(x_TD: Array) -> Array:
        row_ND = embed_tokens(passage.variables, passage.row_N)
        row_ND = row_ND.at[1 : 1 + passage.n_prompt].set(x_TD)
        return embedded_logits(model, passage.variables, x_TD=row_ND, at=passage.at)

    return logits_from_embeddings


def attention_of_prompt(model: Transformer, passage: Passage) -> Array:
    """Return the attention weights of the row, (L, H, N, N)."""
    return attention_maps(model, passage.variables, tokens_BT=passage.row_N[None])[0]
