"""A small language model whose weights a mask removes while it trains."""

import dataclasses
from collections.abc import Callable, Iterable
from functools import cached_property

import jax
import numpy as np
import optax

from lostjax.optim import mask_decayed, mask_updates
from lostjax.prune.curve import (
    Passages,
    bits_per_byte,
    choose_passages,
    score_passages,
)
from lostjax.steps.score import make_passage_step
from lostjax.steps.state import model_variables
from lostjax.steps.step import make_eval_step
from lostjax.train.build.initial import start_state
from lostjax.train.build.job import Job, prepare_job
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import DataConfig, ModelConfig, TrainConfig
from lostjax.typing import Batch, PyTree, Variables

WARM_UP = 0.05
"""Share of the steps in which the learning rate rises."""


@dataclasses.dataclass(frozen=True)
class Size:
    """A dense model and its training."""

    width: int = 32
    layers: int = 2
    steps: int = 400
    batch: int = 8
    tokenizer: str = "bytes"
    rate: float = 4e-3
    """Peak learning rate, after a warm-up and before a cosine to a tenth."""
    decay: float = 0.1
    """Weight decay of matrices."""
    tokens: int = 32768
    """Held-out tokens to score on."""


def configure(size: Size, seed: int) -> TrainConfig:
    """Write the trainer's configuration of a size."""
    return dataclasses.replace(
        get_preset("tiny"),
        mesh="data:1",
        seed=seed,
        steps=size.steps,
        batch_size=size.batch,
        model=ModelConfig(
            d_model=size.width,
            n_layers=size.layers,
            n_heads=2,
            d_hidden=8 * round(size.width / 3),
            linear="dense",
        ),
        data=DataConfig(tokenizer=size.tokenizer, seq_len=128),
    )


class MaskedModel:
    """A seed's model: its start, its text, and one compiled step for all masks."""

    def __init__(self, size: Size, seed: int) -> None:
        self.size = size
        self.job: Job = prepare_job(configure(size, seed))
        self._variables: Variables = model_variables(start_state(self.job))
        self._score = jax.jit(make_passage_step(self.job.model))
        evaluate = make_eval_step(self.job.model)
        self._chain = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adamw(
                optax.warmup_cosine_decay_schedule(
                    0.0,
                    size.rate,
                    warmup_steps=max(1, round(WARM_UP * size.steps)),
                    decay_steps=size.steps,
                    end_value=size.rate / 10,
                ),
                b2=0.95,
                weight_decay=size.decay,
                mask=mask_decayed,
            ),
        )

        def loss(params: PyTree, batch: Batch) -> jax.Array:
            nats, tokens = evaluate({**self._variables, "params": params}, batch)
            return nats / tokens

        def step(params: PyTree, state: PyTree, batch: Batch) -> tuple[PyTree, PyTree]:
            slopes = jax.grad(loss)(params, batch)
            # The mask is in the state: one program trains under all of them.
            updates, state = self._tx(True).update(slopes, state, params)
            return optax.apply_updates(params, updates), state

        self._step = jax.jit(step)

    def _tx(self, mask: PyTree) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(
            optax.chain(self._chain, mask_updates(mask))
        )

    @property
    def start(self) -> PyTree:
        """The parameters before training."""
        return self._variables["params"]

    @cached_property
    def heldout(self) -> Passages:
        """Passages that are spread over the held-out text."""
        return choose_passages(self.job.data.heldout, tokens=self.size.tokens)

    def train(
        self,
        params: PyTree,
        mask: PyTree = True,
        *,
        batches: Iterable[Batch] | None = None,
        watch: Callable[[int, PyTree], None] | None = None,
    ) -> PyTree:
        """Train the weights that a mask keeps, from the schedule's first step on.

        Args:
          params: to start from, zero where the mask removes them.
          mask: see `optim.mask_updates`.
          batches: default: those of the run, one a step.
          watch: called with the number of steps done and the parameters.
        """
        state = self._tx(mask).init(params)
        for number, batch in enumerate(batches or self.batches(self.size.steps), 1):
            params, state = self._step(params, state, batch)
            if watch is not None:
                watch(number, params)
        return params

    def batches(self, count: int, *, repeat: int = 1) -> list[Batch]:
        """List a run's first batches.

        Args:
          count: how many.
          repeat: how often each comes, in passes over the first count / repeat.
        """
        few = max(1, count // repeat)
        found = [self.job.data.train.batch_at(number) for number in range(few)]
        return [found[number % few] for number in range(count)]

    def bits(self, params: PyTree, passages: Passages | None = None) -> float:
        """Compute bits per byte of passages; default: of the held-out ones."""
        passages = passages or self.heldout
        variables = {**self._variables, "params": params}
        scored = score_passages(self._score, variables, passages)
        return bits_per_byte(*scored, passages)


def shuffle_tokens(batch: Batch, seed: int) -> Batch:
    """Put the tokens of a batch into a random order, so that none predicts the next."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(batch.tokens_BT.size)
    tokens, targets = (
        np.asarray(each).ravel()[order].reshape(each.shape)
        for each in (batch.tokens_BT, batch.targets_BT)
    )
    return batch._replace(tokens_BT=tokens, targets_BT=targets)
