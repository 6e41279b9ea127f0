"""`python -m lostjax.plan`, as a user calls it."""

import dataclasses
import functools
import importlib.util
import json

import jax
import pytest

import lostjax
from lostjax.errors import ConfigError
from lostjax.nn import activation_bytes, count_flops, count_parameters
from lostjax.nn.attention.blocked import blocked_attention
from lostjax.plan import estimate, search, targets
from lostjax.plan.__main__ import main, swap_preset
from lostjax.plan.estimate import make_plan
from lostjax.plan.search import estimate as estimate_candidate
from lostjax.plan.search import search_plans
from lostjax.plan.table import note_plans, plan_values, state_fit
from lostjax.plan.targets import Target, find_target
from lostjax.steps.head import count_parts
from lostjax.train.build import micro_batches
from lostjax.train.build.model import build_model
from lostjax.train.config.fields import replace_in
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import ModelConfig
from lostjax.train.config.stored import save_config
from lostjax.train.devices import platform
from lostjax.train.devices.chips import CHIPS, Chip
from lostjax.view.numbers import format_flops

SMOKE = get_preset("smoke")
SMALL_CHIP = Chip(flops=1e12, memory=1e6, bandwidth=1e11, network=1e10)


def here(*, chip=None):
    return Target("here", tuple(jax.devices()), chip)


def with_layers(n_layers, **values):
    model = dataclasses.replace(SMOKE.model, n_layers=n_layers, **values)
    return dataclasses.replace(SMOKE, mesh="data:1", model=model)


class Once:
    """A lowered program that is compiled once."""

    def __init__(self, lowered):
        self.compile = functools.cache(lowered.compile)


@pytest.fixture(scope="module", autouse=True)
def lowered_once():
    """Share the programs of plans of one configuration and mesh."""
    lower_step, made = estimate.lower_step, {}

    def lower_once(run, state):
        parts = micro_batches.count_micro_batches(run.config, mesh=run.mesh)
        key = run.config, run.mesh, parts
        if key not in made:
            made[key] = Once(lower_step(run, state))
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "lower_step", lower_once)
        yield


@pytest.fixture(scope="module")
def plans():
    """Plans of two and four layers without recomputation."""
    return {
        n: make_plan(with_layers(n, remat="none"), here(chip=CHIPS["TPU v5e"]))
        for n in (2, 4)
    }


def test_flops_of_two_and_four_layers_scale(plans):
    """XLA's own analysis would say the same of both: layers are a loop."""
    for plan in plans.values():
        # The model's count leaves out what is not a product of matrices: nothing here.
        assert plan.costs.flops == pytest.approx(plan.model_flops, rel=0.06)
    model = build_model(SMOKE.model, vocab_size=257)
    flops = count_flops(model, length=SMOKE.data.seq_len)
    two_layers = 3 * (flops.linear + flops.scores) * SMOKE.batch_size * 64
    grown = plans[4].costs.flops - plans[2].costs.flops
    assert grown == pytest.approx(two_layers, rel=0.06)


@pytest.fixture(scope="module")
def cut_plans():
    """Plans of two, four and six layers, cut over data and fsdp."""
    made = {n: with_layers(n, remat="none") for n in (2, 4, 6)}
    return {
        n: make_plan(dataclasses.replace(config, mesh="data:2,fsdp:2"), here())
        for n, config in made.items()
    }


@pytest.mark.parametrize("figure", ["flops", "hbm_bytes", "network_bytes"])
def test_the_next_two_layers_cost_what_the_last_two_did(cut_plans, figure):
    two, four, six = (getattr(plan.costs, figure) for plan in cut_plans.values())
    assert six - four == pytest.approx(four - two, rel=0.01)


def test_two_layers_more_send_and_move_what_they_hold(cut_plans):
    """Bounds either way: a count of ten times as much would grow as evenly."""
    models = {
        n: build_model(plan.config.model, vocab_size=257)
        for n, plan in cut_plans.items()
    }
    held = 4 * (count_parameters(models[4]).total - count_parameters(models[2]).total)
    sent = cut_plans[4].costs.network_bytes - cut_plans[2].costs.network_bytes
    # Over fsdp the half of them is gathered, forward and backward, and gradients are
    # summed whole (a CPU does not scatter them); over data the half is.
    assert sent == pytest.approx((1 + 1 + 1 / 2) * held, rel=0.03)
    rows = SMOKE.batch_size // 4
    kept = [activation_bytes(models[n], batch_size=rows, length=64) for n in (2, 4)]
    moved = cut_plans[4].costs.hbm_bytes - cut_plans[2].costs.hbm_bytes
    # What is kept is written and read again, and so is what comes between.
    assert 4 < moved / (kept[1] - kept[0]) < 20
    assert cut_plans[4].costs.flops - cut_plans[2].costs.flops == pytest.approx(
        (cut_plans[4].model_flops - cut_plans[2].model_flops), rel=0.06
    )


def test_memory_is_that_of_the_state(plans):
    memory = plans[2].memory
    n_parameters = memory.parameters / 4
    # Two moments of every parameter, and counters; kept channels besides.
    assert 8 * n_parameters < memory.optimizer < 8 * n_parameters + 8_000
    assert memory.fits and memory.peak > memory.parameters + memory.optimizer


def test_micro_batches_are_those_of_the_run(monkeypatch, plans):
    whole = plans[2]
    assert plan_values(whole)["micro_batches"] == 1
    monkeypatch.setattr(micro_batches, "POSITIONS", SMOKE.data.seq_len)
    parts = make_plan(with_layers(2, remat="none"), here())
    assert plan_values(parts)["micro_batches"] == SMOKE.batch_size
    assert parts.memory.activations == whole.memory.activations / SMOKE.batch_size


def test_what_is_kept_is_what_the_platform_keeps(plans):
    """On a CPU no probabilities, also where nothing is recomputed."""
    model = build_model(plans[2].config.model, vocab_size=257)
    sizes = {"batch_size": SMOKE.batch_size, "length": SMOKE.data.seq_len}
    kept = activation_bytes(model.clone(attend=blocked_attention), **sizes)
    assert plans[2].memory.activations == kept < 0.9 * activation_bytes(model, **sizes)


def test_times_follow_from_the_chip(plans):
    plan, chip = plans[2], CHIPS["TPU v5e"]
    assert plan.times.compute == plan.costs.flops / chip.flops
    assert plan.times.memory == plan.costs.hbm_bytes / chip.bandwidth
    assert plan.times.step == max(plan.times) and plan.times.network == 0
    assert plan.times.binding == "memory" and 0 < plan.mfu < 1


def test_sharding_cuts_the_state_and_adds_collectives(plans):
    config = dataclasses.replace(SMOKE, mesh="data:2,fsdp:4")
    plan = make_plan(config, here())
    whole = plans[2]
    assert plan.memory.parameters < 0.4 * whole.memory.parameters
    kinds = {(each.kind, each.axes) for each in plan.costs.collectives}
    assert ("all-reduce", "data") in kinds and ("all-gather", "fsdp") in kinds
    assert not whole.costs.collectives


def test_a_plan_knows_the_reference_that_weighs_tokens(tmp_path, plans):
    """It lies beside the state, and its forward pass is a part of the step's time."""
    theirs = with_layers(6, linear="dense")
    save_config(tmp_path / "config.json", theirs)
    base = plans[2]
    asked = replace_in(
        with_layers(2, remat="none"),
        "objective.token_weights",
        reference=str(tmp_path),
    )
    plan = make_plan(asked, here(chip=CHIPS["TPU v5e"]))
    model = build_model(theirs.model, vocab_size=257)
    held = 4 * count_parameters(model).total
    assert plan.memory.reference == held and base.memory.reference == 0
    assert plan.memory.peak >= base.memory.peak + held
    forward = count_flops(model, length=64).forward * plan.tokens
    assert plan.model_flops - base.model_flops == pytest.approx(forward)
    assert plan.costs.flops - base.costs.flops == pytest.approx(forward, rel=0.06)
    candidate, plain = (
        estimate_candidate(each, here(chip=CHIPS["TPU v5e"]))
        for each in (asked, base.config)
    )
    assert candidate.held - plain.held == pytest.approx(held, abs=0.1 * held)


def test_the_command_prints_and_writes(tmp_path, capsys, read_page):
    words = ["--preset=smoke", "--mesh=data:1", "--against=smoke", f"--out={tmp_path}"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "not known" in said and "FLOPs" in said
    ours, theirs = json.loads((tmp_path / "plan.json").read_text())
    assert ours["flops"] == theirs["flops"] > 1e7 and ours["fits"] is None
    assert ours["configuration"]["model.rank"] == SMOKE.model.rank
    page = read_page((tmp_path / "plan.html").read_text()).text
    assert "Plan for this machine smoke against smoke Fits: not known." in page
    flops = format_flops(ours["flops"])
    assert f"FLOPs {flops} {flops} of the model" in page
    assert "read from the compiled program: static." in page


def test_another_preset_is_planned_as_this_run_computes():
    run = replace_in(get_preset("lost_60m"), "model", dtype="float32")
    other = swap_preset(run, get_preset("llama_60m"))
    assert (other.model.linear, other.model.dtype) == ("dense", "float32")
    assert other.model.remat == "none", "its preset's own, as the run's is"
    chosen = swap_preset(replace_in(run, "model", remat="full"), other)
    assert chosen.model.remat == "full" and chosen.preset == "llama_60m"
    assert swap_preset(run, other).steps == run.steps


def test_remat_policies_that_differ_are_noted(plans):
    ours = plans[2]
    config = replace_in(ours.config, "model", remat="full")
    theirs = ours._replace(name="other", config=config)
    (note,) = [n for n in note_plans([ours, theirs]) if "remat policies differ" in n]
    assert f"{ours.name} {ours.config.model.remat}, other full" in note
    assert not [n for n in note_plans([ours, ours]) if "remat policies" in n]


def test_what_a_plan_cannot_count_is_said(tmp_path, capsys, plans):
    """GaLore chooses its subspace now and then, by an SVD: a loop on some hardware."""
    words = ["--preset=smoke", "--mesh=data:1", "--optim=galore", f"--out={tmp_path}"]
    assert main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "a subspace every --optim.frugal.update-gap=200 steps" in said
    (written,) = json.loads((tmp_path / "plan.json").read_text())
    assert 0 < written["least_hbm_bytes"] < 0.99 * written["hbm_bytes"]
    costs = plans[2].costs._replace(uncounted=("a", "b", "c", "d"))
    noted = note_plans([plans[2]._replace(costs=costs)])
    assert [note for note in noted if "a, b, c and 1 more." in note]
    assert "cuDNN" not in "".join(noted)
    costs = costs._replace(has_cudnn=True)
    assert "cuDNN" in "".join(note_plans([plans[2]._replace(costs=costs)]))


def test_what_does_not_fit_is_exit_code_3(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(CHIPS, "cpu", SMALL_CHIP)
    words = ["--preset=smoke", "--mesh=data:1", f"--out={tmp_path}"]
    assert main(words) == 3
    assert "no, " in capsys.readouterr().out


@pytest.mark.parametrize(
    "message, gib",
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
            "memory space hbm. Used 20.00G of 15.75G hbm. Exceeded hbm capacity by "
            "4.25G.",
            20,
        ),
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, "
            "the total memory required for HLO temporaries (23.50G) exceeds available "
            "HBM (15.75G). HLO module: jit_step.",
            23.5,
        ),
    ],
)
def test_a_compiler_out_of_memory_is_a_plan_that_does_not_fit(message, gib):
    class Lowered:
        def compile(self):
            raise jax.errors.JaxRuntimeError(message)

    assert estimate._compile(Lowered()) == (None, gib * 2**30)


def test_a_program_that_cannot_be_read_is_a_plan_without_costs(
    tmp_path, capsys, monkeypatch, caplog
):
    """jaxlib 0.10.2 does not know some instructions of libtpu 0.0.52."""

    def as_text(compiled):
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure\n*** Begin stack")

    monkeypatch.setattr(jax.stages.Compiled, "as_text", as_text)
    assert main(["--preset=smoke", "--mesh=data:1", f"--out={tmp_path}"]) == 0
    assert "peak" in capsys.readouterr().out
    assert json.loads((tmp_path / "plan.json").read_text())[0]["flops"] is None
    assert caplog.messages == [
        "this jaxlib cannot read the compiled program: its FLOPs, bytes and "
        "collectives are unknown (pip install 'jax[tpu]' installs the libtpu that "
        "matches jaxlib): INTERNAL: RET_CHECK failure"
    ]


def test_a_plan_that_fits_says_by_how_much(plans):
    assert state_fit(plans[2]).startswith("yes, 17.")
    memory = plans[2].memory._replace(capacity=1e6, peak=3.5e6)
    assert state_fit(plans[2]._replace(memory=memory)) == "no, 2.50 MB too much"


@pytest.mark.parametrize(
    "device, peak, needs",
    [
        ("NVIDIA H100 80GB HBM3", 76.3e9, "XLA_CLIENT_MEM_FRACTION=0.96 or more"),
        ("NVIDIA H100 80GB HBM3", 59e9, None),
        ("NVIDIA H100 80GB HBM3", 81e9, None),
        ("TPU v5 lite", 76.3e9, None),
    ],
)
def test_a_gpu_plan_says_what_jax_sets_aside(plans, device, peak, needs):
    memory = plans[2].memory._replace(peak=peak, capacity=80e9)
    notes = note_plans([plans[2]._replace(device=device, memory=memory)])
    told = [note for note in notes if "60.0 GB" in note]
    assert len(told) == device.startswith("NVIDIA")
    assert any("MEM_FRACTION" in note for note in notes) == (needs is not None)
    assert needs is None or needs in told[0]


def test_a_plan_from_python_starts_no_absent_hardware(monkeypatch):
    # An installed libtpu would wait for a TPU, where no command settled the platform.
    settled = []
    monkeypatch.setattr(targets, "settle_platform", lambda: settled.append(True))
    assert lostjax.plan.find_target("here").name == "here" and settled
    assert lostjax.plan.make_plan is make_plan


def test_search_compiles_the_promising_ones_and_sorts_them():
    said = []
    config = dataclasses.replace(SMOKE, batch_size=16)
    chip = SMALL_CHIP._replace(memory=1e9)
    found = search_plans(config, here(chip=chip), count=2, say=said.append)
    assert len(found) == len(said) == 2
    times = [plan.times.step / plan.tokens for plan in found]
    assert times == sorted(times) and all(plan.memory.fits for plan in found)
    with pytest.raises(ConfigError, match="--search: nothing fits"):
        search_plans(
            config, here(chip=SMALL_CHIP._replace(memory=1e4)), count=1, say=print
        )
    with pytest.raises(ConfigError, match="no published figures of cpu"):
        search_plans(config, here(), count=1, say=print)


def estimated(mesh="data:1", *, network=1e15, **parts):
    """Estimate smoke with some values of its parts, given as part=dict."""
    config = dataclasses.replace(SMOKE, mesh=mesh, **parts.pop("run", {}))
    for part, values in parts.items():
        config = replace_in(config, part, **values)
    chip = SMALL_CHIP._replace(network=network)
    return estimate_candidate(config, here(chip=chip))


def test_estimates_see_what_cuts_memory_and_what_recomputes():
    whole = estimated(model={"remat": "none"})
    assert estimated("fsdp:4", model={"remat": "none"}).bytes < 0.5 * whole.bytes
    again = estimated(model={"remat": "full"})
    assert again.bytes < whole.bytes and again.seconds > whole.seconds


def test_estimates_know_the_optimizer_and_the_vocabulary():
    adam = estimated()
    sign = estimated(optim={"name": "sign_sgd"})
    model = build_model(SMOKE.model, vocab_size=257)
    n_parameters = count_parameters(model).total
    assert adam.held - sign.held == pytest.approx(8 * n_parameters, abs=100)
    # Embedding and head with both moments.
    more = estimated(data={"tokenizer": "bpe:1000"}).held - adam.held
    assert more == 3 * 4 * 2 * SMOKE.model.d_model * (1000 - 257)


def test_an_estimate_is_near_what_the_compiler_makes_of_micro_batches():
    run = {"batch_size": 512, "accumulate": 64}
    candidate = estimated(run=run)
    peak = make_plan(candidate.config, here()).memory.peak
    assert 0.5 * peak < candidate.bytes < 1.5 * peak
    assert estimated(run={"batch_size": 512}).bytes > 10 * candidate.bytes


def test_logits_are_those_of_one_part(monkeypatch):
    run, data = {"batch_size": 256}, {"tokenizer": "bpe:5000"}
    parts = count_parts((256, SMOKE.data.seq_len, SMOKE.model.d_model), shards=1)
    assert parts > 1
    found = estimated(run=run, data=data).bytes
    monkeypatch.setattr(search, "count_parts", lambda shape, *, shards: 1)
    rest = estimated(run=run, data=data).bytes - found
    assert rest == pytest.approx(
        (1 - 1 / parts) * 8 * 5000 * 256 * SMOKE.data.seq_len, rel=1e-6
    )


def test_search_leaves_the_model_as_it_is(monkeypatch, plans):
    """87 channels do not fall into two groups, and need not."""
    compiled = []
    monkeypatch.setattr(
        search, "make_plan", lambda config, target: compiled.append(config) or plans[2]
    )
    said = []
    config = replace_in(SMOKE, "model", d_hidden=87)
    target = here(chip=SMALL_CHIP._replace(memory=1e9))
    search_plans(config, target, count=1000, say=said.append)
    assert any("tensor:2" in each.mesh for each in compiled)
    assert {each.model.channel_groups for each in compiled} == {1}
    assert not [line for line in said if line.startswith("left out")]


def test_search_says_once_why_some_candidates_cannot_be(monkeypatch):
    def refuse(config, target):
        raise ConfigError("--model: not on any mesh")

    monkeypatch.setattr(search, "estimate", refuse)
    said = []
    with pytest.raises(ConfigError, match="see the reasons above"):
        search_plans(SMOKE, here(chip=SMALL_CHIP), count=1, say=said.append)
    assert said == ["left out: --model: not on any mesh"]


@pytest.mark.parametrize(
    "name",
    ["v9:2x2", "v5e", "v5e:4", "v5p:4x4", "v5e:4xx4", "v5e:4xb", "h100:9", "h100", ""]
    + ["h200:0"]
    + ["v5e:0x4", "v5e:²x2", "v5e:65x1", "v5p:2x2x0", "v5e:" + "9" * 5000 + "x1"],
)
def test_an_unknown_topology_lists_those_that_there_are(name):
    with pytest.raises(
        ConfigError, match=f"--topology={name}: not known.*v5e:4x4.*h100:8, h200:8"
    ):
        find_target(name)


@pytest.mark.parametrize(
    "name, module, command",
    [
        ("v5e:2x2", "libtpu", "pip install libtpu"),
        ("h100:8", "jax_cuda12_plugin", r"pip install 'jax\[cuda12\]'"),
        ("h200:8", "jax_cuda12_plugin", r"pip install 'jax\[cuda12\]'"),
        ("a100:1", "jax_cuda12_plugin", r"pip install 'jax\[cuda12\]'"),
        ("b200:1", "jax_cuda12_plugin", r"pip install 'jax\[cuda12\]'"),
    ],
)
def test_a_missing_compiler_is_one_line(name, module, command, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        targets.importlib.util,
        "find_spec",
        lambda wanted: None if wanted == module else find(wanted),
    )
    with pytest.raises(ConfigError, match=command):
        find_target(name)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--topology=v7"], "--topology=v7: not known"),
        (["--search=-1"], "--search=-1: must be at least 0"),
        (["--search=2", "--against=tiny"], "use one of them, not both"),
        (["--against=lost_8b"], "--against=lost_8b: no such preset"),
        (["--mesh=data:64"], "needs 64 devices"),
        (["--mesh=data:100000"], "a CPU is split into at most 1024"),
        (["--data.tokenizer=bpe:" + "9" * 5000], "SIZE of bpe:SIZE must be"),
        (["--data.tokenizer=bpe:²"], "SIZE of bpe:SIZE must be"),
        (["--topolgy=here"], "did you mean --topology?"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, capsys):
    assert main(["--preset=smoke", *words, f"--out={tmp_path / 'x'}"]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_compilers_without_hardware_are_not_asked(monkeypatch):
    chosen = []
    assert platform._is_chosen(), "by the tests themselves"
    monkeypatch.setattr(
        platform.jax.config, "update", lambda *pair: chosen.append(pair)
    )
    monkeypatch.setattr(platform, "_is_chosen", lambda: False)
    monkeypatch.setattr(platform, "_is_installed", lambda name: name == "libtpu")
    monkeypatch.setattr(platform, "has_accelerator", lambda: True)
    platform.settle_platform()
    assert not chosen, "hardware is there"
    monkeypatch.setattr(platform, "has_accelerator", lambda: False)
    platform.settle_platform()
    assert chosen == [("jax_platforms", "cpu")]
    monkeypatch.setattr(platform, "_is_chosen", lambda: True)
    platform.settle_platform()
    assert len(chosen) == 1, "the user chose"


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs libtpu: pip install libtpu",
)
@pytest.mark.parametrize("product", ["xla", "mosaic_tpu"])
def test_a_tpus_compiler_plans_a_step(product):
    model = ModelConfig(
        d_model=128, n_layers=2, n_heads=1, d_hidden=256, rank=16, product=product
    )
    config = dataclasses.replace(SMOKE, mesh="data:2,fsdp:2", model=model)
    plan = make_plan(config, find_target("v5e:2x2"))
    assert plan.device == "TPU v5 lite" and plan.memory.fits
    assert plan.costs.flops == pytest.approx(plan.model_flops, rel=0.25)
    assert {each.axes for each in plan.costs.collectives} <= {
        "data",
        "fsdp",
        "data+fsdp",
    }


@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None,
    reason="needs CUDA's compilers: pip install 'jax[cuda12]'",
)
@pytest.mark.parametrize("product", ["xla", "mosaic_gpu"])
@pytest.mark.parametrize(
    "kind, name", [("a100", "NVIDIA A100"), ("b200", "NVIDIA B200")]
)
def test_nvidias_compiler_plans_a_step_for_other_gpus_than_hopper(kind, name, product):
    """The kernels are for Hopper: for these XLA multiplies."""
    model = ModelConfig(
        d_model=128,
        n_layers=1,
        n_heads=1,
        d_hidden=256,
        rank=64,
        dtype="bfloat16",
        product=product,
    )
    config = dataclasses.replace(SMOKE, mesh="data:2", model=model)
    plan = make_plan(config, find_target(f"{kind}:2"))
    assert plan.device.startswith(name) and plan.memory.fits
    assert plan.memory.capacity == CHIPS[name].memory
    assert plan.costs.flops == pytest.approx(plan.model_flops, rel=0.25)


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs libtpu: pip install libtpu",
)
def test_a_tpus_svd_iterates_and_does_not_end_a_plan():
    config = replace_in(
        dataclasses.replace(SMOKE, mesh="data:1"), "optim", name="galore"
    )
    plan = make_plan(config, find_target("v5e:2x2"))
    assert plan.costs.uncounted and all("svd" in name for name in plan.costs.uncounted)
    assert plan.costs.least_flops == pytest.approx(plan.model_flops, rel=0.25)
