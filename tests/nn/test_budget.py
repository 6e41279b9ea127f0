"""Counts equal what is really made, what is really compiled, and the papers' sizes."""

import re
from functools import partial

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.nn import (
    Dense,
    LowRank,
    LowRankSparse,
    SLTrain,
    Transformer,
    Ungrouped,
    activation_bytes,
    count_flops,
    count_memory,
    count_parameters,
    rank_for_budget,
    save_products,
)

SIZES = {"vocab_size": 40, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_hidden": 24}
LOST = partial(LowRankSparse, rank=4, delta=0.25)
FAMILY = {
    "dense": Ungrouped(Dense),
    "low_rank": Ungrouped(partial(LowRank, rank=4)),
    "cola": Ungrouped(partial(LowRank, rank=4, activation=flax.linen.silu)),
    "sltrain": Ungrouped(partial(SLTrain, rank=4, delta=0.1)),
    "lost": LOST,
    "lost, gamma learnt": partial(LOST, learn_gamma=True),
    "lost, no channels": partial(LOST, delta=0.0),
}
TOKENS_BT = jnp.zeros((3, 8), jnp.int32)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("name", FAMILY)
def test_parameters_equal_what_init_makes(name, qk_norm):
    model = Transformer(**SIZES, linear=FAMILY[name], qk_norm=qk_norm)
    made = jax.eval_shape(model.init, jax.random.key(0), TOKENS_BT)["params"]

    def size(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    layers = dict(made["layers"])
    norms = [made["final_norm"], layers["attention_norm"], layers["mlp_norm"]]
    attention = dict(layers["attention"])
    norms += [attention.pop(n) for n in ("q_norm", "k_norm") if n in attention]
    count = count_parameters(model)
    assert count.embedding == size(made["embed"])
    assert count.attention == size(attention)
    assert count.mlp == size(layers["mlp"])
    assert count.norms == size(norms)
    assert count.head == size(made["head"])
    assert count.total == size(made)
    assert count.non_embedding == size(made) - size([made["embed"], made["head"]])


def product_flops(program):
    """FLOPs of all matrix products in a compiled program, loops multiplied out."""
    bodies, name, main = {}, None, None
    for line in program.splitlines():
        if line.endswith("{") and "->" in line:
            name = re.search(r"%([\w.-]+) \(", line).group(1)
            bodies[name] = []
            main = name if line.startswith("ENTRY") else main
        elif name:
            bodies[name].append(line)
    shapes = {
        found.group(1): [int(n) for n in found.group(2).split(",") if n]
        for found in re.finditer(r"%([\w.-]+) = \w+\[([\d,]*)\]", program)
    }

    def count(name):
        total = 0
        for line in bodies[name]:
            dot = re.search(r"%([\w.-]+) = .* dot\(.*?%([\w.-]+), .*contracting", line)
            if dot:
                axes = re.search(r"lhs_contracting_dims={([\d,]+)}", line).group(1)
                inner = [shapes[dot.group(2)][int(axis)] for axis in axes.split(",")]
                total += 2 * int(np.prod(shapes[dot.group(1)] + inner))
            trips = re.search(r'known_trip_count":{"n":"(\d+)"', line)
            for called in re.findall(r"(?:body|calls|to_apply)=%([\w.-]+)", line):
                total += int(trips.group(1) if trips else 1) * count(called)
        return total

    return count(main)


@pytest.mark.parametrize("n_layers", [2, 3])
@pytest.mark.parametrize("name", ["dense", "sltrain", "lost"])
def test_flops_equal_the_products_of_the_compiled_program(name, n_layers):
    model = Transformer(**(SIZES | {"n_layers": n_layers}), linear=FAMILY[name])
    variables = jax.eval_shape(model.init, jax.random.key(0), TOKENS_BT)

    def loss(params, rest):
        logits_BTV = model.apply({**rest, "params": params}, TOKENS_BT)
        return jnp.sum(jnp.square(logits_BTV))

    rest = {key: variables[key] for key in variables if key != "params"}
    forward = jax.jit(loss).lower(variables["params"], rest).compile()
    train = jax.jit(jax.grad(loss)).lower(variables["params"], rest).compile()
    count = count_flops(model, length=8)
    # SLTrain makes W once for the step, not for each token: 2 R M N a matrix.
    once = n_layers * 2 * 4 * (4 * 16 * 16 + 3 * 16 * 24) * (name == "sltrain")
    assert product_flops(forward.as_text()) == 24 * count.forward + once
    assert product_flops(train.as_text()) == 24 * count.train + 3 * once


def test_memory_counts_bytes():
    papers = count_memory(10, parameter_dtype=jnp.bfloat16, moment_dtype=jnp.bfloat16)
    assert (papers.parameters, papers.optimizer, papers.total) == (20, 40, 60)
    assert count_memory(10).total == 120
    assert count_memory(10, moments=0).total == 40


def test_activation_bytes_name_what_is_kept():
    sizes = {"batch_size": 2, "length": 8}
    model = Transformer(**SIZES, remat=save_products)
    count = partial(activation_bytes, **sizes)
    # What a layer adds: the residual stream; q, k, v, attended, o; gate and up.
    deeper = model.clone(n_layers=3)
    assert count(deeper) - count(model) == 4 * 2 * 8 * (6 * 16 + 2 * 24)
    assert activation_bytes(model, batch_size=6, length=8) == 3 * count(model)
    half = model.clone(dtype=jnp.bfloat16)
    assert 2 * (count(half.clone(n_layers=3)) - count(half)) == (
        count(deeper) - count(model)
    )


# The papers' shapes: D, F, L, H, rank; 32000 tokens.
SHAPES = {
    "60m": (512, 1376, 8, 8, 128),
    "130m": (768, 2048, 12, 12, 256),
    "350m": (1024, 2736, 24, 16, 256),
    "1b": (2048, 5461, 24, 32, 512),
    "7b": (4096, 11008, 32, 32, 1024),
}
# Millions of parameters: dense, low-rank, LOST at 1 % and 5 %, SLTrain; gigabytes at 6
# bytes: dense, low-rank, LOST; LOST's rank at low-rank's size; LOST's forward FLOPs
# over dense's, of the seven matrices and with the head.
TABLE = {
    "60m": (58.1, 42.8, 43.0, 44.0, 43.5, 0.35, 0.26, 0.26, 124, 0.405, 0.639),
    "130m": (134.1, 94.0, 94.8, 98.2, 96.5, 0.80, 0.56, 0.57, 251, 0.537, 0.641),
    "350m": (368.0, 185.2, 188.2, 200.3, 194.3, 2.21, 1.11, 1.13, 249, 0.405, 0.464),
    "1b": (1339.1, 609.3, 621.1, 669.5, 645.5, 8.03, 3.66, 3.73, 499, 0.406, 0.436),
    "7b": (6738, 2821, 2885, 3144, 3015, 40.4, 16.9, 17.3, 998, 0.405, 0.417),
}


@pytest.mark.parametrize("size", SHAPES)
def test_sizes_equal_the_published_ones(size):
    D, F, L, H, rank = SHAPES[size]
    make = partial(Transformer, 32000, D, L, H, F)
    low_rank = make(linear=Ungrouped(partial(LowRank, rank=rank)))

    def lost(rank, delta=0.01):
        return make(linear=partial(LowRankSparse, rank=rank, delta=delta))

    sltrain = make(linear=Ungrouped(partial(SLTrain, rank=rank, delta=0.03)))
    models = [make(), low_rank, lost(rank), lost(rank, 0.05), sltrain]
    totals = [count_parameters(model).total for model in models]
    kept = partial(
        count_memory, parameter_dtype=jnp.bfloat16, moment_dtype=jnp.bfloat16
    )
    gigabytes = [kept(total).total / 1e9 for total in totals[:3]]
    equal = rank_for_budget(lost, n_parameters=count_parameters(low_rank).non_embedding)
    dense_flops, lost_flops = (count_flops(m, length=256) for m in (make(), models[2]))
    ratio = lost_flops.linear / dense_flops.linear
    with_head = (lost_flops.linear + lost_flops.head) / (
        dense_flops.linear + dense_flops.head
    )

    expected = TABLE[size]
    millions = 0 if size == "7b" else 1
    got = [round(total / 1e6, millions) for total in totals]
    got += [round(n, 1 if size == "7b" else 2) for n in gigabytes]
    got += [equal, round(ratio, 3), round(with_head, 3)]
    assert got == list(expected)


def test_the_rank_is_the_largest_within_the_budget():
    def make(rank):
        return Transformer(**SIZES, linear=Ungrouped(partial(LowRank, rank=rank)))

    for rank in (1, 5, 16):
        exact = count_parameters(make(rank)).non_embedding
        assert rank_for_budget(make, n_parameters=exact) == rank
        if rank > 1:
            assert rank_for_budget(make, n_parameters=exact - 1) == rank - 1
    # Never above a matrix's smaller side, or the limit given.
    assert rank_for_budget(make, n_parameters=10**9) == 16
    assert rank_for_budget(make, n_parameters=10**9, max_rank=7) == 7


def test_bad_arguments_are_refused():
    def make(rank):
        return Transformer(**SIZES, linear=Ungrouped(partial(LowRank, rank=rank)))

    with pytest.raises(ValueError, match="n_parameters=100"):
        rank_for_budget(make, n_parameters=100)
    with pytest.raises(ValueError, match="length=0"):
        count_flops(make(1), length=0)
