"""Past outputs by example, against a dictionary that keeps everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lostjax.losses import compress_outputs
from lostjax.optim import init_memory, recall_outputs, window_schedule, write_outputs

WIDTH = 3
EXAMPLE = {"logits": jax.ShapeDtypeStruct((WIDTH,), jnp.float32)}
recall, write = jax.jit(recall_outputs), jax.jit(write_outputs)


def outputs_of(ids, epoch):
    """Outputs that tell example and epoch."""
    value = 100.0 * np.asarray(epoch) + np.asarray(ids) + 1
    return {"logits": np.repeat(value[:, None], WIDTH, axis=1).astype(np.float32)}


class Everything:
    """The reference: a dictionary of all that was ever written."""

    def __init__(self, lag):
        self.lag, self.seen = lag, {}

    def step(self, memory, ids, epoch):
        """Recall and write a batch in both; checks what the memory recalls."""
        ids, epoch = np.asarray(ids, np.int32), np.asarray(epoch, np.int32)
        found, known = recall(memory, ids, epoch=epoch)
        wanted = [(i, e - self.lag) for i, e in zip(ids, epoch, strict=True)]
        np.testing.assert_array_equal(known, [key in self.seen for key in wanted])
        expected = [self.seen.get(key, np.zeros(WIDTH)) for key in wanted]
        np.testing.assert_array_equal(found["logits"], expected)
        outputs = outputs_of(ids, epoch)
        for i, e, row in zip(ids, epoch, outputs["logits"], strict=True):
            if i >= 0:
                self.seen[i, e] = row
        return write(memory, ids, outputs, epoch=epoch), int(known.sum())


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_shuffled_epochs_are_recalled_lag_epochs_later(lag):
    """Ten rows in batches of four: batches straddle epochs."""
    rng = np.random.default_rng(0)
    n_rows, n_epochs = 10, 6
    order = np.concatenate([rng.permutation(n_rows) for _ in range(n_epochs)])
    epochs = np.repeat(np.arange(n_epochs), n_rows)
    memory, reference = init_memory(n_rows, EXAMPLE, lag=lag), Everything(lag)
    recalled = 0
    for start in range(0, len(order), 4):
        batch = slice(start, start + 4)
        memory, known = reference.step(memory, order[batch], epochs[batch])
        recalled += known
    # At lag 1 a row that ends an epoch and begins the next may meet itself in a batch.
    batches = [order[start : start + 4] for start in range(0, len(order), 4)]
    met = sum(len(batch) - len(set(batch)) for batch in batches) if lag == 1 else 0
    assert recalled == (n_epochs - lag) * n_rows - met


@given(st.integers(1, 3), st.data())
@settings(deadline=None, max_examples=30)
def test_any_order_with_gaps_and_padding_is_never_wrong(lag, data):
    """Examples left out for epochs on end, and rows of padding, in any batches."""
    memory, reference = init_memory(5, EXAMPLE, lag=lag), Everything(lag)
    for epoch in range(5):
        ids = data.draw(
            st.lists(st.integers(0, 4), min_size=4, max_size=4, unique=True)
        )
        padding = data.draw(st.lists(st.booleans(), min_size=4, max_size=4))
        ids = np.where(padding, -1, ids)
        memory, _ = reference.step(memory, ids, np.full(4, epoch))


def test_of_one_example_twice_in_a_batch_the_newest_epoch_stays():
    """A tiny source in a mixture comes several times in one batch."""
    memory = init_memory(2, EXAMPLE, lag=1)
    ids, epoch = np.array([0, 0, 0, 1]), np.array([3, 5, 4, 3])
    memory = write(memory, ids, outputs_of(ids, epoch), epoch=epoch)
    found, known = recall(memory, np.array([0, 0, 1, 1]), epoch=np.array([6, 5, 4, 3]))
    np.testing.assert_array_equal(known, [True, False, True, False])
    assert found["logits"][0, 0] == 501.0 and found["logits"][2, 0] == 302.0
    older = np.array([0])
    memory = write(memory, older, outputs_of(older, np.array([2])), epoch=2)
    assert recall(memory, older, epoch=6)[1].all(), "an older epoch replaces nothing"


@pytest.mark.parametrize("bad", [-1, -2, 3, 99])
def test_ids_out_of_range_are_neither_written_nor_known(bad):
    memory = init_memory(3, EXAMPLE, lag=1)
    ids = np.array([bad])
    after = write(memory, ids, outputs_of(ids, np.array([0])), epoch=0)
    for ours, theirs in zip(
        jax.tree.leaves(after), jax.tree.leaves(memory), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    full = write(memory, np.arange(3), outputs_of(range(3), np.zeros(3)), epoch=0)
    found, known = recall(full, ids, epoch=1)
    assert not known.any() and not found["logits"].any()


def test_epochs_before_the_first_are_not_known():
    memory = init_memory(3, EXAMPLE, lag=1)
    assert not recall(memory, np.arange(3), epoch=0)[1].any()
    assert not recall(memory, np.arange(3), epoch=-1)[1].any()


def test_top_outputs_are_remembered_in_650_times_fewer_bytes():
    n_examples, length, lag = 6, 4, 2
    logits = jax.ShapeDtypeStruct((length, 32000), jnp.float32)
    kept = jax.eval_shape(lambda z: compress_outputs(z, k=32), logits)
    sizes = []
    for example in (logits, kept):
        memory = jax.eval_shape(lambda e=example: init_memory(n_examples, e, lag=lag))
        leaves = jax.tree.leaves(memory.outputs)
        sizes.append(sum(leaf.size * leaf.dtype.itemsize for leaf in leaves))
        assert memory.written_XS.size * 4 == n_examples * lag * 4
    assert sizes[0] == n_examples * lag * length * 32000 * 4
    assert sizes[1] == n_examples * lag * length * 196


def test_a_donated_memory_is_written_in_place_on_a_device_of_choice():
    device = jax.devices()[3]
    memory = jax.device_put(init_memory(1000, EXAMPLE, lag=2), device)
    ids, epoch = jax.device_put((np.arange(4), np.zeros(4, np.int32)), device)
    place = memory.outputs["logits"].unsafe_buffer_pointer()
    step = jax.jit(write_outputs, donate_argnums=0)
    memory = step(memory, ids, outputs_of(range(4), np.zeros(4)), epoch=epoch)
    assert memory.outputs["logits"].unsafe_buffer_pointer() == place
    assert memory.outputs["logits"].devices() == {device}
    assert recall(memory, ids, epoch=jax.device_put(np.int32(2), device))[1].all()


@pytest.mark.parametrize(
    "axes, spec",
    [
        (AxisType.Auto, P("data")),
        (AxisType.Auto, P(None, None, "data")),
        (AxisType.Explicit, P(None, None, "data")),
    ],
)
def test_a_sharded_memory_recalls_the_same(axes, spec):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axes,))
    example = jax.ShapeDtypeStruct((8,), jnp.float32)
    memory = init_memory(16, example, lag=2)
    sharded = memory._replace(
        outputs=jax.device_put(memory.outputs, NamedSharding(mesh, spec))
    )
    ids = np.array([3, 15, 0, 7, -1, 8, 2, 1], np.int32)
    values = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    for epoch in (0, 2):
        found = [recall(each, ids, epoch=epoch) for each in (memory, sharded)]
        for ours, theirs in zip(*map(jax.tree.leaves, found), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        memory, sharded = (
            write(each, ids, values, epoch=epoch) for each in (memory, sharded)
        )
    assert sharded.outputs.sharding.spec == spec


@pytest.mark.parametrize("name", ["n_examples", "lag"])
def test_a_memory_without_room_is_named(name):
    sizes = {"n_examples": 3, "lag": 2, name: 0}
    with pytest.raises(ValueError, match=f"{name}=0"):
        init_memory(sizes["n_examples"], EXAMPLE, lag=sizes["lag"])


def test_outputs_of_another_kind_are_named():
    memory = init_memory(3, EXAMPLE, lag=1)
    ids = jnp.arange(2)
    with pytest.raises(ValueError, match=r"logits has shape \(2, 4\)"):
        write_outputs(memory, ids, {"logits": jnp.zeros((2, 4))}, epoch=0)
    with pytest.raises(ValueError, match="outputs: structure"):
        write_outputs(memory, ids, jnp.zeros((2, 3)), epoch=0)


def test_a_window_holds_from_its_start_to_before_its_end():
    weight = window_schedule(0.3, start=1.5, end=3.0)
    got = [float(weight(epoch)) for epoch in (0, 1.49, 1.5, 2, 2.99, 3, 4)]
    np.testing.assert_allclose(got, [0, 0, 0.3, 0.3, 0.3, 0, 0], rtol=1e-6)
    assert window_schedule(2.0)(jnp.int32(0)) == window_schedule(2.0)(1e9) == 2.0


@pytest.mark.parametrize("window", [{"start": -1.0}, {"start": 2.0, "end": 2.0}])
def test_a_wrong_window_is_named(window):
    name = list(window)[-1]
    with pytest.raises(ValueError, match=f"{name}={window[name]}"):
        window_schedule(0.3, **window)
