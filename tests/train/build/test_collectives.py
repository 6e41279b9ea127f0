"""What devices send each other in a compiled step of a whole model, LOST and dense."""

import math
import re
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

import pytest

from lostjax.train.build.programs import compile_steps
from lostjax.train.build.run import build_run
from lostjax.train.config.schema import DataConfig, ModelConfig, TrainConfig
from lostjax.train.devices.mesh import make_mesh
from lostjax.train.devices.sharding import place_shapes

D, F, R, T, BATCH = 48, 80, 8, 22, 8
ROWS = BATCH * T  # no product of other sizes
NARROW = R + F // 4  # the widest bottleneck: rank and kept channels of down


LOST_BY_4 = "lost", "tensor:4", 4
DENSE_BY_4 = "dense", "tensor:4"


class Sent(NamedTuple):
    """One collective within the layers: its kind, and the arrays it gives a device."""

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    types: tuple[str, ...]

    @property
    def size(self):
        return sum(math.prod(shape) for shape in self.shapes)


@lru_cache
def sent_in_layers(linear, mesh_text, groups=1, product="xla"):
    """Compile a training step and list what travels, forward and backward."""
    config = TrainConfig(
        mesh=mesh_text,
        batch_size=BATCH,
        model=ModelConfig(
            d_model=D, n_layers=2, n_heads=4, d_hidden=F, linear=linear,
            rank=R, delta=0.25, channel_groups=groups, product=product,
        ),
        data=DataConfig(seq_len=T),
    )  # fmt: skip
    mesh = make_mesh(mesh_text)
    run = build_run(config, mesh=mesh, vocab_size=264)
    state = place_shapes(run.abstract, mesh)
    found = []
    for line in compile_steps(run, state).train.as_text().splitlines():
        sent = re.search(
            r"= (.*?) (all-gather|all-to-all|all-reduce|collective-permute|"
            r"reduce-scatter)(?:-start)?\(",
            line,
        )
        if sent and "closed_call" in line:  # the scanned layers, and their transpose
            arrays = re.findall(r"(\w\d+)\[([\d,]*)\]", sent[1])
            shapes = (tuple(map(int, filter(None, s.split(",")))) for _, s in arrays)
            found.append(Sent(sent[2], tuple(shapes), tuple(t for t, _ in arrays)))
    return found


def activations(sent, shards=1):
    """Count the arrays that hold a row for each token, by kind and width."""
    leading = ROWS // shards
    return Counter(
        (one.kind, shape[-1])
        for one in sent
        for shape in one.shapes
        if len(shape) > 1 and leading in (shape[0], math.prod(shape[:2]))
    )


def total(sent):
    return sum(one.size for one in sent)


def test_under_data_only_gradients_travel():
    (one,) = sent_in_layers("lost", "data:8")
    assert one.kind == "all-reduce" and not activations([one], shards=8)


def test_under_fsdp_only_weights_travel_and_fewer_than_dense():
    lost, dense = (sent_in_layers(name, "fsdp:8") for name in ("lost", "dense"))
    assert {one.kind for one in lost} <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert not activations(lost) and not activations(lost, shards=8)
    assert total(lost) < 0.6 * total(dense)


def test_under_tensor_x_stays_at_home():
    lost, dense = (sent_in_layers(*model) for model in (LOST_BY_4, DENSE_BY_4))
    ours, theirs = activations(lost), activations(dense)
    assert theirs, "the rows are looked for in the wrong place"
    wide = {key: count for key, count in ours.items() if key[1] >= D}
    assert set(wide) <= set(theirs), "wide rows travel that dense would leave"
    assert all(wide[key] <= theirs[key] for key in wide)
    narrow = [width for _, width in ours if width < D]
    assert narrow and max(narrow) <= NARROW
    assert not any("s32" in one.types for one in lost), "kept indices travel"
    assert total(lost) < total(dense)
    assert len(lost) <= 3 * len(dense)


def test_products_by_kernels_send_no_row_that_dense_would_not():
    ours = sent_in_layers(*LOST_BY_4, "mosaic_tpu")
    dense = sent_in_layers(*DENSE_BY_4)
    wide = {key: n for key, n in activations(ours).items() if key[1] >= D}
    assert {kind for kind, _ in wide} == {"all-reduce"}
    assert sum(wide.values()) <= sum(
        n for key, n in activations(dense).items() if key[1] >= D
    )
    assert not any("s32" in one.types for one in ours), "kept indices travel"
    assert total(ours) < total(dense)


@pytest.mark.parametrize("mesh", ["data:8", "fsdp:8", "data:4,fsdp:2"])
def test_products_by_kernels_send_weights_only_where_rows_are_cut(mesh):
    ours = sent_in_layers("lost", mesh, 1, "mosaic_tpu")
    assert not activations(ours) and not activations(ours, shards=8)
    assert total(ours) <= 1.01 * total(sent_in_layers("lost", mesh))
    assert total(ours) < 0.8 * total(sent_in_layers("dense", mesh))


def test_without_channel_groups_the_kept_inputs_travel():
    alone = sent_in_layers("lost", "tensor:4", 1)
    grouped = sent_in_layers(*LOST_BY_4)
    assert total(alone) > 1.2 * total(grouped)
    assert any("s32" in one.types for one in alone)


def test_under_all_axes_lost_sends_less_than_dense(capfd):
    mesh = "data:2,fsdp:2,tensor:2"
    lost, dense = sent_in_layers("lost", mesh, 2), sent_in_layers("dense", mesh)
    assert total(lost) < 0.8 * total(dense)
    assert len(lost) < 2 * len(dense)
    assert not any("s32" in one.types for one in lost)
    # XLA's word for a layout that it can only reach by copying everything.
    assert "rematerialization" not in capfd.readouterr().err
