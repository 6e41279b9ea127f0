"""Concepts as a page and as JSON: their tokens, their passages, what they count for."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lostjax.concepts.stream import Concepts, Judged, Stream
from lostjax.view.numbers import format_count, format_loss, format_number
from lostjax.view.page import Bar, Table, render_page
from lostjax.view.token_maps import TokenMap, map_tokens, show_token

BEFORE, AFTER = 24, 6
"""Tokens of a passage before and after its strongest one."""
TOKENS = 10
"""Tokens that a concept raises, and lowers, which are listed."""


class Passage(NamedTuple):
    """A stretch of text around a position with much of a concept."""

    amount: float
    """How much of the concept the position has."""
    texts: list[str]
    """Its tokens."""
    amounts_T: np.ndarray
    """How much each of them has; NaN if it has no next token."""
    following: str
    """The token after the strongest one."""


class Concept(NamedTuple):
    """A concept as it is shown."""

    raises: list[str]
    lowers: list[str]
    importance: float
    without: float
    share: float
    """Share of the positions that have any of it."""
    passages: list[Passage]


class Board(NamedTuple):
    """All that was found."""

    title: str
    concepts: list[Concept]
    """The most important first."""
    judged: Judged
    n_judged: int
    n_positions: int
    unexplained: float

    @property
    def recovered(self) -> float:
        """Share of the loss that the concepts alone recover."""
        whole, alone, none = self.judged[2:]
        return (none - alone) / (none - whole)


def describe_concepts(
    stream: Stream,
    concepts: Concepts,
    judged: Judged,
    *,
    logits_RV: np.ndarray,
    decode: Callable[[int], str],
    n_passages: int,
) -> list[Concept]:
    """Name concepts by their tokens and passages, the most important first."""
    # Names are of tokens that the text has: any other may have any logit.
    read_V = np.unique(stream.targets_N)
    found = []
    for r in np.argsort(-judged.importance_R, kind="stable"):
        amount_N = concepts.u_NR[:, r]
        order_V = read_V[np.argsort(-logits_RV[r, read_V], kind="stable")]
        found.append(
            Concept(
                [decode(int(token)) for token in order_V[:TOKENS]],
                [decode(int(token)) for token in order_V[::-1][:TOKENS]],
                float(judged.importance_R[r]),
                float(judged.without_R[r]),
                float(np.mean(amount_N > 0)),
                [
                    _cut_passage(stream, amount_N, at, decode=decode)
                    for at in choose_positions(stream, amount_N, count=n_passages)
                ],
            )
        )
    return found


def choose_positions(stream: Stream, amount_N: np.ndarray, *, count: int) -> list[int]:
    """Choose the positions with most of a concept, one of a row of text."""
    chosen: list[int] = []
    seen: set[int] = set()
    for at in np.argsort(-amount_N, kind="stable"):
        if len(chosen) == count or not amount_N[at] > 0:
            break
        row = int(stream.row_N[at])
        if row not in seen:
            seen.add(row)
            chosen.append(int(at))
    return chosen


def _cut_passage(
    stream: Stream,
    amount_N: np.ndarray,
    at: int,
    *,
    decode: Callable[[int], str],
) -> Passage:
    row, place = stream.row_N[at], int(stream.place_N[at])
    first = max(int(stream.start_N[at]), place - BEFORE)
    tokens_T = stream.tokens_BT[row]
    last = min(len(tokens_T), place + 1 + AFTER)
    amounts_T = np.full(len(tokens_T), np.nan)
    own_N = np.flatnonzero(stream.row_N == row)
    amounts_T[stream.place_N[own_N]] = amount_N[own_N]
    return Passage(
        float(amount_N[at]),
        [decode(int(token)) for token in tokens_T[first:last]],
        amounts_T[first:last],
        decode(int(stream.targets_N[at])),
    )


def board_values(board: Board) -> dict[str, Any]:
    """List what was found, for JSON."""
    judged = board.judged
    return {
        "run": board.title,
        "positions": board.n_positions,
        "judged_positions": board.n_judged,
        "unexplained": board.unexplained,
        "loss": judged.whole,
        "loss_of_concepts": judged.alone,
        "loss_of_none": judged.none,
        "recovered": board.recovered,
        "concepts": [
            {
                "importance": each.importance,
                "loss_rise_without": each.without,
                "share_of_positions": each.share,
                "raises": each.raises,
                "lowers": each.lowers,
                "passages": [
                    {
                        "amount": passage.amount,
                        "text": "".join(passage.texts),
                        "next": passage.following,
                    }
                    for passage in each.passages
                ],
            }
            for each in board.concepts
        ],
    }


def name_concept(concept: Concept, *, count: int = 4) -> str:
    """Name a concept by the tokens that it raises most."""
    return quote(concept.raises[:count])


def quote(tokens: Sequence[str]) -> str:
    """Quote tokens so that their spaces are seen."""
    return ", ".join(f"\N{LEFT DOUBLE QUOTATION MARK}{show_token(token)}"
                     "\N{RIGHT DOUBLE QUOTATION MARK}" for token in tokens)  # fmt: skip


def render_board(board: Board) -> str:
    """Render the page."""
    judged = board.judged
    largest = max((each.importance for each in board.concepts), default=0) or 1
    return render_page(
        "concepts.html",
        {
            "title": board.title,
            "headline": [
                ("concepts", str(len(board.concepts))),
                ("loss", format_loss(judged.whole)),
                ("loss of the concepts alone", format_loss(judged.alone)),
                ("of the stream's square", f"{100 * (1 - board.unexplained):.0f} %"),
            ],
            "finding": describe_fidelity(board),
            "bars": [
                Bar(
                    f"{place}. {name_concept(each)}",
                    f"{each.importance:.3f}",
                    each.importance / largest,
                )
                for place, each in enumerate(board.concepts, start=1)
            ],
            "table": tabulate(board),
            "note": _NOTE.format(
                judged=format_count(board.n_judged),
                positions=format_count(board.n_positions),
            ),
            "concepts": [
                {
                    "heading": f"{place}. {name_concept(each)}",
                    "raises": quote(each.raises),
                    "lowers": quote(each.lowers),
                    "maps": [_map(passage) for passage in each.passages],
                }
                for place, each in enumerate(board.concepts, start=1)
            ],
        },
    )


_NOTE = (
    "Importance: mean over {judged} held-out positions of the total Sobol index of the "
    "concept's amount for the loss of the next token; a share of the variance of that "
    "loss, without a sign, and more than 1 together if concepts interact. Rise: by how "
    "much the mean loss rises if the concept alone is taken out of the stream; below 0 "
    "if the model predicts better without. Names are the tokens whose logits a concept "
    "raises most, of those that follow one of the {positions} positions."
)


def describe_fidelity(board: Board) -> str:
    """Say how much of the model's prediction the concepts keep."""
    judged = board.judged
    return (
        f"With the concepts in place of the stream, the loss is "
        f"{format_loss(judged.alone)} nats per token; the model's is "
        f"{format_loss(judged.whole)}, and {format_loss(judged.none)} without any "
        f"stream. The concepts recover {100 * board.recovered:.0f} % of what the model "
        "knows; what is said of them holds for that part."
    )


def tabulate(board: Board) -> Table:
    """Tabulate concepts by importance."""
    return Table(
        "Concepts and the loss",
        ["concept", "importance", "rise without it", "positions with it"],
        [
            [
                f"{place}. {name_concept(each, count=3)}",
                f"{each.importance:.3f}",
                f"{each.without:+.3f}",
                f"{100 * each.share:.0f} %",
            ]
            for place, each in enumerate(board.concepts, start=1)
        ],
    )


def _map(passage: Passage) -> TokenMap:
    label = f"{format_number(passage.amount)}, then {quote([passage.following])}"
    return map_tokens(label, passage.texts, scores_T=passage.amounts_T)
