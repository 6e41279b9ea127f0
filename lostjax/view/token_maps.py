"""Heat maps of text: each token on a colour as strong as its score."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from lostjax.view.characters import replace_controls

_STRONGEST = 60  # per cent of colour: letters stay readable in front of it


class Token(NamedTuple):
    """A token as a template draws it."""

    text: str
    strength: int
    """Share of colour, per cent."""
    is_negative: bool
    score: str
    """The number, for a reader who points at the token."""


class TokenMap(NamedTuple):
    """A line of coloured text."""

    label: str
    tokens: Sequence[Token]


def map_tokens(
    label: str, texts: Sequence[str], *, scores_T: Shaped[np.ndarray, " T"]
) -> TokenMap:
    """Colour the tokens of a text by their scores; the largest is the strongest.

    Args:
      label: what the scores are.
      texts: the tokens, T.
      scores_T: a number each (T,); one that is not finite stays without colour, and
        negative ones have a colour of their own.

    Returns:
      The map; a template draws it with `parts.token_map`.

    Raises:
      ValueError: if there are not as many scores as tokens.
    """
    if scores_T.shape != (len(texts),):
        raise ValueError(
            f"scores_T of shape {scores_T.shape}: must be one each of {len(texts)} "
            "tokens"
        )
    size_T = np.where(np.isfinite(scores_T), np.abs(scores_T), 0.0)
    most = size_T.max(initial=0.0) or 1.0
    return TokenMap(
        label,
        [
            Token(
                show_token(text),
                round(_STRONGEST * size / most),
                score < 0,
                f"{score:.3g}",
            )
            for text, size, score in zip(texts, size_T, scores_T, strict=True)
        ],
    )


def show_token(text: str) -> str:
    """Return a token with line breaks and tabs as signs, other controls as U+FFFD."""
    return replace_controls(
        text.replace("\n", "\N{RETURN SYMBOL}").replace(
            "\t", "\N{RIGHTWARDS ARROW TO BAR}"
        )
    )
