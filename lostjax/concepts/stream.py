"""The stream that a model's head reads, and the concepts that it is made of.

    x_t = final state of position t, after the last norm      (D)
    a_t = [max(x_t, 0), max(-x_t, 0)]                          (2 D), not negative
    a_t ~ u_t W                                                `lostjax.analysis.nmf`

A concept is a row of W and stands for the direction w_+ - w_-, whose logits are the
tokens that it makes more or less likely.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.analysis import concept_importance, nmf, nnls
from lostjax.data import EvalPlan
from lostjax.losses import next_token_loss
from lostjax.nn import Transformer
from lostjax.steps.objective import final_states, unembed
from lostjax.typing import Array, Variables

_LOGITS = 1 << 24
"""Numbers in the logits of one call, at most: 64 MiB."""


class Stream(NamedTuple):
    """Positions of a text, row by row; N positions that have a next token."""

    states_ND: np.ndarray
    targets_N: np.ndarray
    """Ids of the next tokens."""
    row_N: np.ndarray
    """Row of each position in `tokens_BT`."""
    place_N: np.ndarray
    """Its place in that row."""
    start_N: np.ndarray
    """Place of the first token of its document in that row."""
    tokens_BT: np.ndarray
    """All rows."""


class Concepts(NamedTuple):
    """What a stream is made of."""

    w_RM: Array
    u_NR: np.ndarray
    """How much of each concept every position has."""
    unexplained: float
    """|A - U W|^2 / |A|^2, over all positions."""


class Judged(NamedTuple):
    """What concepts count for the loss, on K positions."""

    importance_R: np.ndarray
    """Mean total Sobol index."""
    without_R: np.ndarray
    """Nats by which the mean loss rises if the concept is taken out of the stream."""
    whole: float
    """Mean loss of the stream, nats."""
    alone: float
    """The same of U W in its place."""
    none: float
    """The same of zeros: that of a uniform guess if the head has no bias."""


def choose_batches(plan: EvalPlan, *, tokens: int) -> list[int]:
    """Choose batches that are spread evenly over a text, of some tokens or more."""
    each = plan.batch_size * plan.sources[0].seq_len
    count = min(plan.n_batches, -(-tokens // each))
    numbers = np.linspace(0, plan.n_batches - 1, count).round().astype(int)
    return [int(number) for number in np.unique(numbers)]


def read_stream(
    model: Transformer, variables: Variables, *, plan: EvalPlan, batches: Sequence[int]
) -> Stream:
    """Compute the final states of every position that has a next token."""
    step = jax.jit(partial(final_states, model))
    parts: list[list[np.ndarray]] = []
    rows = 0
    for number in batches:
        batch = plan.batch_at(number)
        # One batch in flight: with many, CPU devices that share threads deadlock.
        states_BTD = np.asarray(step(variables, batch), np.float32)
        row_B, place_B = np.nonzero(batch.weights_BT > 0)
        at = row_B, place_B
        start_B = np.maximum(place_B - batch.positions_BT[at], 0)
        parts.append(
            [
                *(states_BTD[at], batch.targets_BT[at], row_B + rows),
                *(place_B, start_B, np.asarray(batch.tokens_BT)),
            ]
        )
        rows += len(batch.tokens_BT)
    return Stream(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def split_signs(states_ND: np.ndarray) -> np.ndarray:
    """Take the positive and the negative parts beside each other, (N, 2 D)."""
    parts_NM: np.ndarray = np.maximum(np.concatenate([states_ND, -states_ND], 1), 0)
    return parts_NM


def join_signs(a_NM: Array) -> Array:
    """Join the parts, (N, 2 D) to (N, D)."""
    half = a_NM.shape[-1] // 2
    return a_NM[..., :half] - a_NM[..., half:]


def find_concepts(stream: Stream, *, rank: int, most: int, seed: int) -> Concepts:
    """Factorise a random part of the positions; explain all by the concepts.

    Args:
      stream: positions.
      rank: R.
      most: positions to factorise, at most.
      seed: draws them.
    """
    a_NM = split_signs(stream.states_ND)
    order_N = np.random.default_rng(seed).permutation(len(a_NM))[:most]
    w_RM = nmf(jnp.asarray(a_NM[order_N]), rank).w_RM
    u_NR = np.asarray(nnls(jnp.asarray(a_NM), w_RM))
    rest_NM = a_NM - u_NR @ np.asarray(w_RM)
    return Concepts(w_RM, u_NR, float(np.sum(rest_NM**2) / np.sum(a_NM**2)))


class Judge:
    """Losses of a model's head, compiled for one number of rows at a time."""

    def __init__(
        self, model: Transformer, variables: Variables, *, n_designs: int
    ) -> None:
        """Prepare; nothing is compiled yet."""
        self._head = variables["params"]["head"]
        self._n_designs = n_designs
        # At least one position with all of its designs.
        rows = max(1, _LOGITS // model.vocab_size)
        self.chunk = max(1, rows // n_designs)

        @jax.jit
        def losses(head: Variables, states_ND: Array, targets_N: Array) -> Array:
            logits_1NV = unembed(model, head, states_ND[None])
            return next_token_loss(logits_1NV[0], targets_N)

        self._losses = losses
        self._logits = jax.jit(partial(unembed, model))

    def losses(self, states_ND: Array, targets_N: Array) -> Array:
        """Compute the loss of each state, nats."""
        found: Array = self._losses(self._head, states_ND, targets_N)
        return found

    def direction_logits(self, w_RM: Array) -> np.ndarray:
        """Compute the logits that concepts add, (R, V)."""
        return np.asarray(self._logits(self._head, join_signs(w_RM)[None])[0])

    def judge(
        self,
        stream: Stream,
        concepts: Concepts,
        *,
        rows_K: np.ndarray,
        tell: Callable[[int], None],
    ) -> Judged:
        """Judge concepts on some positions, a chunk at a time."""
        parts = []
        for number, rows in enumerate(self._chunks(rows_K)):
            parts.append(self._judge(stream, concepts, rows, seed=number))
            tell(sum(len(part[0]) for part in parts))
        importance, without, whole, alone, none = (
            np.concatenate(part) for part in zip(*parts, strict=True)
        )
        return Judged(
            importance.mean(axis=0),
            without.mean(axis=0),
            float(whole.mean()),
            float(alone.mean()),
            float(none.mean()),
        )

    def _chunks(self, rows_K: np.ndarray) -> Iterator[np.ndarray]:
        for first in range(0, len(rows_K), self.chunk):
            yield rows_K[first : first + self.chunk]

    def _judge(
        self, stream: Stream, concepts: Concepts, rows: np.ndarray, *, seed: int
    ) -> list[np.ndarray]:
        targets_B = jnp.asarray(stream.targets_N[rows])
        states_BD = jnp.asarray(stream.states_ND[rows])
        u_BR, w_RM = jnp.asarray(concepts.u_NR[rows]), concepts.w_RM

        def head(a_XM: Array) -> Array:
            targets_X = jnp.tile(targets_B, len(a_XM) // len(rows))
            return self.losses(join_signs(a_XM), targets_X)

        # Another scrambling for each chunk: their errors average out.
        found = concept_importance(
            head, u_BR, w_RM, n_designs=self._n_designs, seed=seed
        )
        whole_B = self.losses(states_BD, targets_B)
        directions_RD = join_signs(w_RM)
        without_BR = jnp.stack(
            [
                self.losses(states_BD - u_BR[:, r, None] * directions_RD[r], targets_B)
                for r in range(len(w_RM))
            ],
            axis=1,
        )
        made = (
            found.indices_BR,
            without_BR - whole_B[:, None],
            whole_B,
            self.losses(join_signs(u_BR @ w_RM), targets_B),
            self.losses(jnp.zeros_like(states_BD), targets_B),
        )
        return [np.asarray(each) for each in made]
