"""What was found, as a page, a table and JSON."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lostjax.attribute.explain import RANDOM, Explained, summarise
from lostjax.attribute.methods import METHODS
from lostjax.view.numbers import MISSING, format_count, format_number
from lostjax.view.page import Table, render_page
from lostjax.view.token_maps import map_tokens, show_token

_NOTE = (
    "Sufficiency: how much of the prediction is kept if the embeddings are masked "
    "except for what scores high. Comprehensiveness: how much it changes if what "
    "scores high is masked. Both are means over the tokens, normalised so that masking "
    "nothing has sufficiency 1 and masking everything comprehensiveness 1; higher is "
    "more faithful. Random scores are the control. Forward passes are of all tokens, "
    "and a backward pass counts as two; the time is the median after the first."
)


def tabulate_methods(explained: Sequence[Explained]) -> Table:
    """Tabulate faithfulness and cost by method, the most comprehensive first."""
    found = summarise(explained)
    order = sorted(
        found, key=lambda name: np.nan_to_num(-found[name].comprehensiveness, nan=1.0)
    )
    rows = [
        [
            _title(name),
            _share(found[name].sufficiency),
            _share(found[name].comprehensiveness),
            format_count(found[name].passes),
            MISSING if name == RANDOM else _milliseconds(found[name].seconds),
        ]
        for name in order
    ]
    head = [
        "method",
        "sufficiency",
        "comprehensiveness",
        "forward passes",
        "time a token",
    ]
    return Table("Faithfulness and cost", head, rows)


def render_attribution(
    explained: Sequence[Explained],
    *,
    run: str,
    prompt: str,
    prompt_tokens: Sequence[int],
    decode: Callable[[int], str],
) -> str:
    """Render one HTML page that needs nothing else.

    Args:
      explained: the tokens of the continuation.
      run: what was read.
      prompt: the text.
      prompt_tokens: its tokens.
      decode: returns the text of a token.
    """
    texts = [decode(token) for token in prompt_tokens]
    tokens = [
        _describe(one, explained[:number], texts=texts, decode=decode)
        for number, one in enumerate(explained)
    ]
    return render_page(
        "attribute.html",
        {
            "title": "Attribution",
            "run": run,
            "prompt": prompt,
            "continuation": "".join(decode(one.token) for one in explained),
            "any_negative": any(
                (scored.scores_T < 0).any()
                for one in explained
                for scored in one.by_method.values()
            ),
            "methods": tabulate_methods(explained),
            "methods_note": _NOTE,
            "tokens": tokens,
        },
    )


def attribution_values(
    explained: Sequence[Explained],
    *,
    prompt_tokens: Sequence[int],
    decode: Callable[[int], str],
) -> dict[str, Any]:
    """Return everything as values of JSON; what is not finite is null."""
    return {
        "prompt_tokens": [decode(token) for token in prompt_tokens],
        "prompt_ids": list(prompt_tokens),
        "tokens": [
            {
                "token": decode(one.token),
                "id": one.token,
                "probability": _or_none(one.probability),
                "methods": {
                    name: {
                        "scores": [
                            _or_none(score) for score in scored.scores_T.tolist()
                        ],
                        "normalised_sufficiency": _or_none(scored.sufficiency),
                        "normalised_comprehensiveness": _or_none(
                            scored.comprehensiveness
                        ),
                        "forward_passes": scored.passes,
                    }
                    for name, scored in one.by_method.items()
                },
            }
            for one in explained
        ],
    }


def _describe(
    one: Explained,
    earlier: Sequence[Explained],
    *,
    texts: Sequence[str],
    decode: Callable[[int], str],
) -> dict[str, Any]:
    drawn = [(name, it) for name, it in one.by_method.items() if name != RANDOM]
    maps = [
        map_tokens(_title(name), texts, scores_T=scored.scores_T)
        for name, scored in drawn
    ]
    rows = [
        [show_token(text), *(format_number(float(it.scores_T[t])) for _, it in drawn)]
        for t, text in enumerate(texts)
    ]
    said = "".join(decode(each.token) for each in earlier)
    return {
        "heading": f"{quote_token(decode(one.token))}, "
        f"probability {one.probability:.3g}",
        "before": f"Written before it: {show_token(said)}" if said else "",
        "maps": maps,
        "scores": Table("Scores", ["token", *(_title(n) for n, _ in drawn)], rows),
    }


def quote_token(text: str) -> str:
    """Return a token in quotation marks, which show its spaces."""
    return f"\N{LEFT DOUBLE QUOTATION MARK}{show_token(text)}" + (
        "\N{RIGHT DOUBLE QUOTATION MARK}"
    )


def _title(name: str) -> str:
    return METHODS[name].title if name in METHODS else name


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms" if np.isfinite(seconds) else MISSING


def _share(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else MISSING


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
