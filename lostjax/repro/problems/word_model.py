"""A model of whole words, whose output layer has tens of thousands of classes.

The text is that of `repro.problems.speech_words`. The model is that of Bengio et al.,
"A Neural Probabilistic Language Model", 2003: the embeddings of the last words, one
hidden layer, and the output layer.
The hidden layer is trained by Adam. Embeddings are trained by AdaGrad with one number
for each word (Duchi et al., 2011), which touches the words of the batch alone: a dense
update would take longer than the output layer.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lostjax import losses, metrics
from lostjax.nn import MLP
from lostjax.optim import factored_output
from lostjax.repro.problems.speech_words import read_text
from lostjax.steps import fit
from lostjax.typing import Array, Float, Key, PyTree

SOFTMAX = "softmax"
TOP = (1, 5, 10, 50, 100)
BODY_RATE, STRETCH, STABILISE_EVERY = 2e-3, 10, 500
EMBEDDING_RATE, SMALLEST = 0.1, 1e-12
"""Adam's rate of the hidden layer; steps in one program, and from one stabilisation to
the next; AdaGrad's rate, and what its sums begin with."""

OfSums = Callable[..., Array]
"""From `LogitSums` and n_classes to losses."""

SPHERICAL: dict[str, OfSums] = {
    "Z-loss, scale 0.1": partial(losses.z_loss_from_sums, scale=0.1, shift=10.0),
    "Z-loss, scale 1": partial(losses.z_loss_from_sums, scale=1.0, shift=10.0),
    "spherical softmax": losses.spherical_softmax_loss_from_sums,
    "Taylor softmax": losses.taylor_softmax_loss_from_sums,
}


@dataclasses.dataclass(frozen=True)
class Training:
    """A model of words, its loss and its size."""

    loss: str = SOFTMAX
    """Or one of `SPHERICAL`, of a factored output layer."""
    adam: bool = False
    """The output layer is trained by Adam, not by gradient descent."""
    shuffled: bool = False
    """Contexts are those of other words."""
    steps: int = 500
    rows: int = 64
    context: int = 6
    embedding: int = 32
    hidden: int = 64
    speeches: int = 0
    """The first so many are all the text; 0 for all."""
    scored: int = 3000
    """Words that are predicted in test, evenly spaced; half as many in validation."""


class State(NamedTuple):
    """A model in training."""

    embedding_VE: Float[Array, "V E"]
    squares_V: Float[Array, "V"]
    """Of the gradients of each word, summed: AdaGrad's state."""
    body: PyTree
    body_opt: PyTree
    output: PyTree
    """Weights (V, D), or factors of them."""
    output_opt: PyTree


class Settings(NamedTuple):
    """What a run may be told without being compiled again."""

    rate: Array | float
    """Of the output layer."""
    loss: Array | int = 0
    """Place in `SPHERICAL`, for a factored layer."""
    shuffled: Array | bool = False


class Programs(NamedTuple):
    """What an output layer compiles to."""

    start: Callable[[Key], State]
    run: Callable[..., State]
    """(state, key, number of the first step, settings) to the state `STRETCH` later."""
    weigh: Callable[[PyTree], Array]
    """From the output layer to its weights (V, D)."""
    stabilise: Callable[[State], State]


def apply_body(
    config: Training, body: PyTree, embedded_BCE: Float[Array, "B C E"]
) -> Float[Array, "B D"]:
    """Compute the inputs of the output layer; the last of them is a constant 1."""
    inputs = embedded_BCE.reshape(len(embedded_BCE), -1)
    hidden_BD = jax.nn.relu(jnp.asarray(MLP((config.hidden,)).apply(body, inputs)))
    return jnp.concatenate([hidden_BD, jnp.ones((len(inputs), 1))], axis=-1)


def start(config: Training, n_words: int, key: Key) -> State:
    """Draw a model; every output layer starts alike."""
    embed_key, hidden_key, output_key = jax.random.split(key, 3)
    inputs = jnp.zeros((1, config.context * config.embedding))
    body = MLP((config.hidden,)).init(hidden_key, inputs)
    width = config.hidden + 1
    output: PyTree = jax.random.normal(output_key, (n_words, width)) / math.sqrt(width)
    if config.loss != SOFTMAX:
        output = factored_output.centre(factored_output.init(output))
    output_tx = optax.adam(1.0) if config.adam else optax.sgd(1.0)
    return State(
        jax.random.normal(embed_key, (n_words, config.embedding)),
        jnp.full(n_words, SMALLEST),
        body,
        optax.adam(BODY_RATE).init(body),
        output,
        output_tx.init(output),
    )


def make_step(
    config: Training, n_words: int, settings: Settings
) -> Callable[[State, tuple[Array, Array]], tuple[State, tuple[()]]]:
    """Make a step of (state, (context_BC, targets_B))."""
    body_tx = optax.adam(BODY_RATE)
    if config.loss == SOFTMAX:
        step_output = partial(_step_dense, optax.adam if config.adam else optax.sgd)
    else:
        step_output = partial(_step_factored, n_words)

    def step(state: State, batch: tuple[Array, Array]) -> tuple[State, tuple[()]]:
        context_BC, targets_B = batch
        x_BD, pull = jax.vjp(
            partial(apply_body, config), state.body, state.embedding_VE[context_BC]
        )
        output, output_opt, slope_BD = step_output(settings, state, x_BD, targets_B)
        slopes, slope_BCE = pull(slope_BD)
        moves, body_opt = body_tx.update(slopes, state.body_opt)
        body = optax.apply_updates(state.body, moves)
        squares_BC = jnp.sum(jnp.square(slope_BCE), axis=-1)
        squares_V = state.squares_V.at[context_BC].add(squares_BC)
        shares_BC = EMBEDDING_RATE * jax.lax.rsqrt(squares_V[context_BC])
        embedding_VE = state.embedding_VE.at[context_BC].add(
            -shares_BC[..., None] * slope_BCE
        )
        after = State(embedding_VE, squares_V, body, body_opt, output, output_opt)
        return after, ()

    return step


Stepped = tuple[PyTree, PyTree, Array]
"""Output layer and its optimiser's state after a step, and the gradient by x."""


def _step_dense(
    make_tx: Callable[..., optax.GradientTransformation],
    settings: Settings,
    state: State,
    x_BD: Array,
    targets_B: Array,
) -> Stepped:
    """Step a dense layer under log-softmax, by autodiff."""

    def mean_loss(weights_VD: Array, x_BD: Array) -> Array:
        return jnp.mean(losses.next_token_loss(x_BD @ weights_VD.T, targets_B))

    slope_VD, slope_BD = jax.grad(mean_loss, (0, 1))(state.output, x_BD)
    moves, output_opt = make_tx(settings.rate).update(slope_VD, state.output_opt)
    return optax.apply_updates(state.output, moves), output_opt, slope_BD


def _step_factored(
    n_words: int, settings: Settings, state: State, x_BD: Array, targets_B: Array
) -> Stepped:
    """Step a factored layer under a spherical loss."""
    targets_BK = targets_B[:, None]
    forms = [partial(form, n_classes=n_words) for form in SPHERICAL.values()]

    def mean_loss(sums: factored_output.Sums) -> Array:
        read = losses.LogitSums(sums.targets_BK[:, 0], sums.total_B, sums.squares_B)
        return jnp.mean(jax.lax.switch(settings.loss, forms, read))

    sums = factored_output.forward(state.output, x_BD, targets_BK=targets_BK)
    after, slope_BD = factored_output.backward_update(
        state.output,
        x_BD,
        targets_BK=targets_BK,
        slopes=jax.grad(mean_loss)(sums),
        learning_rate=settings.rate,
    )
    return after, state.output_opt, slope_BD


@cache
def build_programs(config: Training) -> Programs:
    """Compile what methods with one kind of output layer share.

    Args:
      config: as `shared_part` leaves it.
    """
    text = read_text(config.speeches)
    train_N, back_C = jnp.asarray(text.train_N), jnp.arange(-config.context, 0)
    dense = config.loss == SOFTMAX

    def batch_at(key: Key, number: Array, shuffled: Any) -> tuple[Array, Array]:
        draw, shuffle = jax.random.split(jax.random.fold_in(key, number))
        places_B = jax.random.randint(
            draw, (config.rows,), config.context, len(train_N)
        )
        context_BC = train_N[places_B[:, None] + back_C]
        others_BC = jax.random.permutation(shuffle, context_BC)
        return jnp.where(shuffled, others_BC, context_BC), train_N[places_B]

    def run(state: State, key: Key, first: Array, settings: Settings) -> State:
        found: State = fit(
            make_step(config, text.n_words, settings),
            state,
            batch_at=lambda number: batch_at(key, first + number, settings.shuffled),
            n_steps=STRETCH,
            log_every=STRETCH,
        ).state
        return found

    def stabilise(state: State) -> State:
        return state._replace(output=factored_output.stabilise(state.output))

    return Programs(
        jax.jit(partial(start, config, text.n_words)),
        jax.jit(run, donate_argnums=0),
        (lambda output: output) if dense else jax.jit(factored_output.dense_weights),
        (lambda state: state) if dense else jax.jit(stabilise),
    )


def shared_part(config: Training) -> Training:
    """Leave out what may be traced."""
    first = next(iter(SPHERICAL))
    loss = config.loss if config.loss == SOFTMAX else first
    return dataclasses.replace(config, loss=loss, shuffled=False, steps=0, scored=0)


def train_words(config: Training, rate: float, seed: int) -> State:
    """Train a model; a factored layer is stabilised every `STABILISE_EVERY` steps."""
    programs = build_programs(shared_part(config))
    start_key, batch_key = jax.random.split(jax.random.key(seed))
    place = 0 if config.loss == SOFTMAX else list(SPHERICAL).index(config.loss)
    settings = Settings(
        jnp.float32(rate),
        jnp.int32(place),
        jnp.bool_(config.shuffled),
    )
    state = programs.start(start_key)
    for first in range(0, config.steps, STRETCH):
        if first and not first % STABILISE_EVERY:
            state = programs.stabilise(state)
        state = programs.run(state, batch_key, jnp.int32(first), settings)
    return programs.stabilise(state)


def count_misses(
    config: Training, state: State, words_N: np.ndarray, *, scored: int
) -> list[float]:
    """Compute the misses of each top k, in %; NaN if the model diverged.

    Args:
      config: of the model.
      state: the trained model.
      words_N: a text.
      scored: how many of its words are predicted, evenly spaced.
    """
    leaves = jax.tree.leaves(state)
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in leaves):
        return [math.nan] * len(TOP)
    programs = build_programs(shared_part(config))
    state = state._replace(output=programs.weigh(state.output), output_opt=())
    n_scored = min(scored, len(words_N) - config.context)
    places = np.linspace(config.context, len(words_N) - 1, n_scored, dtype=int)
    chunk = min(500, n_scored)
    chunks = places[: n_scored // chunk * chunk].reshape(-1, chunk)
    back_C = np.arange(-config.context, 0)
    hits = [
        _score(config.hidden, state, words_N[chosen[:, None] + back_C], words_N[chosen])
        for chosen in chunks
    ]
    return [100 * (1 - float(hit)) for hit in np.mean(hits, axis=0)]


@partial(jax.jit, static_argnums=0)
def _score(hidden: int, state: State, context_BC: Array, targets_B: Array) -> Array:
    """Compute the accuracies of each top k; the output layer is its weights."""
    config = Training(hidden=hidden)
    x_BD = apply_body(config, state.body, state.embedding_VE[context_BC])
    logits_BV = x_BD @ state.output.T
    return jnp.stack([metrics.top_k_accuracy(logits_BV, targets_B, k=k) for k in TOP])
