"""The training step on real models: accumulation, meshes, remat, and what it learns."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lostjax.data import Batch
from lostjax.losses import next_token_loss
from lostjax.steps.gradient import make_gradient
from lostjax.steps.objective import Term
from lostjax.steps.step import make_train_step
from lostjax.steps.terms import log_partition_term
from lostjax.train.build import micro_batches, programs
from lostjax.train.build.job import prepare_job
from lostjax.train.build.micro_batches import count_micro_batches
from lostjax.train.build.model import build_model
from lostjax.train.build.state import init_state
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import FrugalConfig, ModelConfig
from lostjax.train.devices.mesh import make_mesh
from lostjax.train.report.ledger import build_ledger
from lostjax.train.trial import run_trial

MODEL = ModelConfig(
    d_model=32, n_layers=2, n_heads=2, d_hidden=64, rank=8, delta=0.25,
    channel_groups=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def smoke(text_file, cache_dir):
    preset = get_preset("smoke")
    data = dataclasses.replace(
        preset.data, source=str(text_file), cache_dir=str(cache_dir), seq_len=32
    )
    return dataclasses.replace(preset, model=MODEL, data=data, mesh="data:1", steps=20)


def also(*values):
    """A case like one beside it, on which nothing else depends: `make slow` runs it."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def alone(smoke):
    return run_trial(smoke)


@pytest.mark.newest
@pytest.mark.parametrize(
    "mesh",
    [  # All three axes at once.
        "data:2,fsdp:2,tensor:2",
        also("tensor:2"),
        also("data:8"),
        also("data:2,fsdp:4"),
    ],
)
def test_every_mesh_computes_what_one_device_does(smoke, alone, mesh):
    trial = run_trial(dataclasses.replace(smoke, mesh=mesh))
    np.testing.assert_allclose(trial.losses, alone.losses, rtol=1e-5)
    np.testing.assert_allclose(trial.evaluation.loss, alone.evaluation.loss, rtol=1e-5)


@pytest.mark.parametrize("subspace", ["rows", also("svd")])
def test_frugal_on_a_mesh_computes_what_it_does_on_one_device(smoke, subspace):
    optim = dataclasses.replace(
        smoke.optim, name="frugal", frugal=FrugalConfig(subspace=subspace, update_gap=3)
    )
    config = dataclasses.replace(smoke, optim=optim, steps=8)
    alone = run_trial(config)
    trial = run_trial(dataclasses.replace(config, mesh="data:2,fsdp:2,tensor:2"))
    # Singular vectors magnify what summing in another order leaves.
    rtol = {"rows": 1e-5, "svd": 1e-4}[subspace]
    np.testing.assert_allclose(trial.losses, alone.losses, rtol=rtol)
    ledger = {row.name: row for row in build_ledger(prepare_job(config))}
    state = ledger["optimiser state: frugal, against AdamW"]
    assert 0 < state.model < state.dense


def test_the_loss_falls(alone):
    assert alone.losses[-1] < alone.losses[0] - 1.0
    assert abs(alone.losses[0] - np.log(257)) < 0.2


@pytest.mark.slow  # as the two tests after it: of the trainer, and of a step
@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_equals_the_big_batch(smoke, alone, accumulate):
    trial = run_trial(dataclasses.replace(smoke, accumulate=accumulate))
    np.testing.assert_allclose(trial.losses, alone.losses, rtol=1e-5)


def test_the_parts_that_a_cpu_likes_change_no_loss(smoke, alone, monkeypatch):
    numbers = []

    def watched(*args, accumulate, **options):
        numbers.append(accumulate)
        return make_gradient(*args, accumulate=accumulate, **options)

    monkeypatch.setattr(micro_batches, "POSITIONS", 64)
    monkeypatch.setattr(programs, "make_gradient", watched)
    parts = count_micro_batches(smoke, mesh=make_mesh("data:1"))
    trial = run_trial(smoke)
    assert set(numbers) == {parts} and parts > 1
    np.testing.assert_allclose(trial.losses, alone.losses, rtol=1e-5)


def test_the_ledger_keeps_one_micro_batch(smoke, monkeypatch):
    job = prepare_job(smoke)

    def kept():
        ledger = build_ledger(job)
        return next(row for row in ledger if row.name.startswith("activations kept"))

    whole = kept()
    monkeypatch.setattr(micro_batches, "POSITIONS", smoke.data.seq_len)
    assert kept().model == whole.model / smoke.batch_size
    assert kept().dense == whole.dense / smoke.batch_size


@pytest.mark.parametrize("remat", ["bottleneck", also("full"), also("none")])
def test_remat_changes_no_loss(smoke, alone, remat):
    model = dataclasses.replace(MODEL, remat=remat)
    trial = run_trial(dataclasses.replace(smoke, model=model))
    np.testing.assert_allclose(trial.losses, alone.losses, rtol=1e-5)


@pytest.mark.parametrize(
    "mesh, remat",
    [
        ("data:2,fsdp:2,tensor:2", "products"),
        also("data:8", "bottleneck"),
        also("data:2,fsdp:4", "none"),
    ],
)
def test_products_by_kernels_change_no_loss_on_any_mesh(smoke, alone, mesh, remat):
    """XLA's form on a CPU, on what each device holds."""
    model = dataclasses.replace(MODEL, remat=remat, product="mosaic_tpu")
    trial = run_trial(dataclasses.replace(smoke, model=model, mesh=mesh))
    np.testing.assert_allclose(trial.losses, alone.losses, rtol=1e-5)


@functools.cache
def started():
    """A model, its optimiser, and its first state."""
    model, tx = build_model(MODEL, vocab_size=32), optax.sgd(1.0)
    mesh = make_mesh("data:1")
    return model, tx, init_state(model, tx, mesh=mesh, key=jax.random.key(0))


@functools.cache
def weighted_step(accumulate, term=None):
    """One step on rows with very different numbers of tokens."""
    model, tx, state = started()
    tokens_BT = jax.random.randint(jax.random.key(1), (8, 17), 0, 32)
    lengths_B = jnp.array([16, 1, 9, 2, 16, 3, 5, 0])
    ones_BT = jnp.ones((8, 16), jnp.int32)
    batch = Batch(
        tokens_BT=tokens_BT[:, :-1],
        targets_BT=tokens_BT[:, 1:],
        weights_BT=(jnp.arange(16) < lengths_B[:, None]).astype(jnp.float32),
        segments_BT=ones_BT,
        positions_BT=ones_BT.cumsum(axis=1) - 1,
        example_B=jnp.arange(8),
        epoch_B=jnp.zeros(8, jnp.int32),
    )
    terms = {} if term is None else {"term": term}
    gradient = make_gradient(model, accumulate=accumulate, terms=terms)
    step = make_train_step(gradient, tx)
    return jax.jit(step)(state, batch)


def test_accumulation_weighs_by_tokens():
    whole, metrics = weighted_step(1)
    parts, other = weighted_step(4)
    assert metrics["tokens"] == other["tokens"] == 52
    np.testing.assert_allclose(metrics["loss"], other["loss"], rtol=1e-6)
    for ours, theirs in zip(
        jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_log_partition_penalty_enters_the_gradient_and_not_the_loss():
    plain, metrics = weighted_step(1)
    penalised, other = weighted_step(1, log_partition_term(0.1))
    np.testing.assert_allclose(metrics["loss"], other["loss"], rtol=1e-6)
    head = plain.params["head"]["kernel"], penalised.params["head"]["kernel"]
    assert not np.allclose(*head, rtol=1e-3)


def test_a_term_is_added_with_its_weight():
    """Half the cross entropy once more is a step half as long again."""
    again = Term(
        lambda state, prepared, targets_BT, logits_BTV: next_token_loss(
            logits_BTV, targets_BT
        ),
        lambda batches: 0.5,
    )
    _, _, start = started()
    before, once, more = (
        np.asarray(state.params["head"]["kernel"])
        for state in (start, weighted_step(1)[0], weighted_step(1, again)[0])
    )
    np.testing.assert_allclose(more - before, 1.5 * (once - before), atol=1e-6)


def test_kept_channels_never_move():
    state, _ = weighted_step(1)
    _, _, start = started()
    before, after = (jax.tree.leaves(s.channels) for s in (start, state))
    for ours, theirs in zip(before, after, strict=True):
        np.testing.assert_array_equal(ours, theirs)
