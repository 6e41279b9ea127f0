"""What a model knows of some examples, and how well it predicts held-out text.

probability    mean over examples of the mean probability of an answer's tokens
exact match    share of examples whose answer greedy decoding would return: every
               token is the likeliest after the right ones before it
membership     AUC of Min-K%: the forgotten answers against pieces of held-out text
               of the same lengths; .5 if they cannot be told apart
bits per byte  of held-out text
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.data import EvalPlan
from lostjax.losses import next_token_loss
from lostjax.metrics import membership_auc
from lostjax.nn import Transformer
from lostjax.steps.objective import final_states, unembed
from lostjax.steps.score import make_passage_step
from lostjax.train.devices.mesh import BATCH_AXES
from lostjax.train.devices.sharding import place_batch
from lostjax.typing import Array, Batch, PyTree, Variables
from lostjax.unlearn.examples import Encoded, Example, encode_answers


class Measures(NamedTuple):
    """Of one model; None if there are no such examples."""

    probability: float
    """Of the forgotten answers."""
    exact_match: float
    membership: float
    bits_per_byte: float
    near_probability: float | None
    """Of the answers of neighbours."""
    near_exact_match: float | None
    kept_probability: float | None
    """Of the answers of retained examples."""
    kept_exact_match: float | None


class Sets(NamedTuple):
    """What is measured."""

    forget: Encoded
    others: Encoded
    """Pieces of held-out text, which no membership shows."""
    near: Encoded | None
    kept: Encoded | None
    heldout: EvalPlan
    batches: Sequence[int]
    """Numbers of the plan's batches that are scored."""


class Reading(NamedTuple):
    """What a model says of rows, on the host."""

    log_p_ET: np.ndarray
    hits_ET: np.ndarray
    """Whether a target is the likeliest token."""
    weights_ET: np.ndarray

    @property
    def probability_E(self) -> np.ndarray:
        """Mean probability of each answer's tokens."""
        kept = self.weights_ET > 0
        sums = np.where(kept, np.exp(self.log_p_ET), 0).sum(axis=1)
        return np.asarray(sums / kept.sum(axis=1))

    @property
    def log_probability_E(self) -> np.ndarray:
        """Log-probability of each answer."""
        kept = self.weights_ET > 0
        return np.asarray(np.where(kept, self.log_p_ET, 0).sum(axis=1))

    @property
    def exact_match(self) -> float:
        """Share of answers all of whose tokens are the likeliest."""
        return float(np.mean(np.all(self.hits_ET | (self.weights_ET == 0), axis=1)))


def token_nats(model: Transformer, variables: Variables, batch: Batch) -> Array:
    """Compute the cross entropy of each token (B, T); differentiable."""
    states_BTD = final_states(model, variables, batch)
    # All logits at once: what is forgotten is a few short rows.
    logits_BTV = unembed(model, variables["params"]["head"], states_BTD)
    return next_token_loss(logits_BTV, batch.targets_BT)


def place_rows(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put arrays of rows on a mesh, cut over data and fsdp."""
    sharding = NamedSharding(mesh, P(BATCH_AXES))

    def place(leaf: Any) -> jax.Array:
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(
            whole.shape, sharding, lambda index: whole[index]
        )

    return jax.tree.map(place, tree)


class Meter:
    """Measures one model on a mesh; compiles once for each row length."""

    def __init__(self, model: Transformer, *, mesh: Mesh, batch_size: int) -> None:
        self.model, self.mesh, self.batch_size = model, mesh, batch_size
        whole = NamedSharding(mesh, P())
        self._read = jax.jit(self._read_batch, out_shardings=whole)
        self._score = jax.jit(make_passage_step(model), out_shardings=whole)

    def _read_batch(self, variables: Variables, batch: Batch) -> tuple[Array, Array]:
        states_BTD = final_states(self.model, variables, batch)
        logits_BTV = unembed(self.model, variables["params"]["head"], states_BTD)
        nats_BT = next_token_loss(logits_BTV, batch.targets_BT)
        return -nats_BT, jnp.argmax(logits_BTV, axis=-1) == batch.targets_BT

    def read(self, variables: Variables, rows: Encoded) -> Reading:
        """Read rows, a batch at a time."""
        found = []
        for start in range(0, len(rows), self.batch_size):
            at = np.arange(start, start + self.batch_size)
            batch = rows.take(np.where(at < len(rows), at, -1)).as_batch()
            read = self._read(variables, place_rows(batch, self.mesh))
            found.append(jax.tree.map(np.asarray, read))
        log_p, hits = (
            np.concatenate(leaves)[: len(rows)] for leaves in zip(*found, strict=True)
        )
        return Reading(log_p, hits, rows.weights_ET)

    def bits_per_byte(self, variables: Variables, sets: Sets) -> float:
        """Score held-out text."""
        plan, nats, tokens = sets.heldout, 0.0, 0.0
        for number in sets.batches:
            nats_B, tokens_B = self._score(
                variables, place_batch(plan, number, mesh=self.mesh)
            )
            nats += float(np.sum(np.asarray(nats_B, np.float64)))
            tokens += float(np.sum(tokens_B))
        return nats / tokens * plan.n_predicted / (plan.n_bytes * math.log(2))

    def measure(self, variables: Variables, sets: Sets) -> Measures:
        """Measure everything."""
        forget = self.read(variables, sets.forget)
        others = self.read(variables, sets.others)
        auc = membership_auc(
            np.concatenate([forget.log_p_ET, others.log_p_ET]),
            np.arange(len(sets.forget) + len(sets.others)) < len(sets.forget),
            weights_BT=np.concatenate([forget.weights_ET, others.weights_ET]),
        )
        pairs: list[float | None] = []
        for rows in (sets.near, sets.kept):
            read = None if rows is None else self.read(variables, rows)
            pairs += (
                (None, None)
                if read is None
                else (float(np.mean(read.probability_E)), read.exact_match)
            )
        return Measures(
            float(np.mean(forget.probability_E)),
            forget.exact_match,
            float(auc),
            self.bits_per_byte(variables, sets),
            *pairs,
        )


def cut_others(
    tokens_N: np.ndarray, forget: Sequence[Example], *, eos: int, length: int
) -> Encoded:
    """Cut pieces of held-out text as long as the forgotten examples.

    Args:
      tokens_N: the text, more tokens than the longest example has.
      forget: the examples; there are 32 pieces or as many as examples.
      eos: the token between documents.
      length: positions of a row.
    """
    n_pieces = max(32, len(forget))
    pieces = []
    for index in range(n_pieces):
        like = forget[index % len(forget)]
        n_prompt, n = len(like.prompt), len(like.prompt) + len(like.answer)
        start = index * max(1, len(tokens_N) - n) // n_pieces
        ids = tuple(int(token) for token in tokens_N[start : start + n])
        pieces.append(Example("", ids[:n_prompt], ids[n_prompt:], ()))
    return encode_answers(pieces, length=length, eos=eos)


def choose_batches(plan: EvalPlan, *, tokens: int) -> list[int]:
    """Choose batches that are spread evenly over a text, with about so many tokens."""
    each = plan.batch_size * plan.sources[0].seq_len
    count = min(plan.n_batches, -(-tokens // each))
    places = np.linspace(0, plan.n_batches - 1, count).round().astype(int)
    return [int(number) for number in np.unique(places)]
