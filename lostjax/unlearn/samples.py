"""What a model continues prompts with, before and after."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lostjax.nn import Transformer, sample_tokens
from lostjax.train.interface.finished import Run
from lostjax.typing import Variables
from lostjax.unlearn.examples import Example
from lostjax.unlearn.inputs import Examples
from lostjax.unlearn.page import Sample

_SAMPLE_TOKENS = 24


def choose_prompts(examples: Examples) -> list[tuple[str, Example]]:
    """Choose what the page shows: three forgotten examples and two neighbours."""
    chosen = [("forgotten", each) for each in examples.forget[:3]]
    return chosen + [("neighbour", each) for each in (examples.near or [])[:2]]


def continue_all(
    model: Transformer,
    variables: Variables,
    prompts: Sequence[tuple[str, Example]],
    run: Run,
) -> list[str]:
    """Continue prompts by the likeliest tokens, up to the end of the text."""
    eos, texts = run.tokenizer.eos_id, []
    for _, each in prompts:
        ids = jnp.asarray([[eos, *each.prompt]], jnp.int32)
        drawn_BT = sample_tokens(
            model,
            variables,
            prompt_BT=ids,
            n_tokens=_SAMPLE_TOKENS,
            key=jax.random.key(0),
            temperature=0.0,
        )
        tokens = [int(token) for token in np.asarray(drawn_BT)[0, ids.shape[1] :]]
        tokens = tokens[: tokens.index(eos)] if eos in tokens else tokens
        texts.append(run.tokenizer.decode(tokens))
    return texts


def list_samples(
    prompts: Sequence[tuple[str, Example]],
    before: Sequence[str],
    after: Sequence[str],
    run: Run,
) -> list[Sample]:
    decode = run.tokenizer.decode
    return [
        Sample(
            kind,
            decode(list(each.prompt)),
            decode(list(each.answer[:_SAMPLE_TOKENS])),
            said,
            says,
        )
        for (kind, each), said, says in zip(prompts, before, after, strict=True)
    ]
