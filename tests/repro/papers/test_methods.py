"""Methods of the papers that train language models: fair, and what they are called."""

import dataclasses

import numpy as np
import pytest

from lostjax.nn import count_parameters
from lostjax.repro.papers import list_papers, load_paper
from lostjax.repro.papers.reweighting import ALONE, EASY, FRESH
from lostjax.train.build.model import build_model
from lostjax.train.build.optimizer import build_optimizer
from lostjax.train.config.checks import check_config
from lostjax.train.config.fields import diff_configs

LANGUAGE_MODELS = [name for name in list_papers() if load_paper(name).train is None]


def small(name):
    experiment = load_paper(name)
    scale = experiment.scales["small"]
    return experiment, scale.config, experiment.methods(scale)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_every_method_can_be_trained(name):
    _, _, methods = small(name)
    for config in methods.values():
        check_config(config)


def test_lost_is_compared_at_its_parameters_except_with_the_full_model():
    experiment, _, methods = small("lost")
    counts = {
        name: count_parameters(build_model(config.model, vocab_size=9)).non_embedding
        for name, config in methods.items()
    }
    lost = counts.pop("LOST")
    assert counts.pop("dense, full") > 1.8 * lost
    for name, count in counts.items():
        assert 0.94 * lost <= count <= lost, f"{name}: {count} against {lost}"
    assert {one.first for one in experiment.comparisons} == {"LOST"}


def test_frugal_is_compared_on_one_model_and_text():
    experiment, _, methods = small("frugal")
    for pair in experiment.comparisons:
        first, second = methods[pair.first], methods[pair.second]
        assert first.model == second.model and first.data == second.data
        assert first.optim != second.optim


def test_saf_differs_in_the_objective_alone():
    _, base, methods = small("saf")
    for name, config in methods.items():
        assert dataclasses.replace(config, objective=base.objective) == base, name
        assert (config == base) == (name == "AdamW")


def test_reweighting_differs_in_weights_and_the_control_in_its_text():
    _, _, methods = small("reweighting")
    for name, config in methods.items():
        shape = name.removesuffix(ALONE)
        differences = []
        if shape != "uniform":
            differences.append(f"--objective.reweight.name: none there, {shape} now")
        if name.endswith(ALONE):
            mixture = f"0.5*{EASY},0.5*{FRESH}"
            differences.append(f"--data.source: {mixture} there, {FRESH} now")
        assert sorted(diff_configs(methods["uniform"], config)) == sorted(differences)


def test_stability_differs_in_what_its_names_say():
    _, base, methods = small("stability")
    changed = {
        name: [line.split(":")[0] for line in diff_configs(base, config)]
        for name, config in methods.items()
    }
    assert changed == {
        "plain": [],
        "qk-norm": ["--model.qk-norm"],
        "log-partition penalty": ["--objective.log-partition"],
        "long warm-up": ["--optim.warmup"],
        "independent decay": ["--optim.weight-decay", "--optim.independent-decay"],
        "ordinary decay": ["--optim.weight-decay"],
    }


@pytest.mark.parametrize("rate, ratio", [(3e-3, 0.1), (3e-1, 10.0)])
def test_both_decays_are_alike_in_the_middle_of_the_grid(rate, ratio):
    """A weight whose gradient is 0 shrinks by the decay alone."""
    _, _, methods = small("stability")

    def shrinkage(name):
        config = dataclasses.replace(methods[name].optim, learning_rate=rate)
        tx, _ = build_optimizer(config, steps=300)
        params = {"layers": {"up": {"kernel": np.ones((2, 2), np.float32)}}}
        zeros = {"layers": {"up": {"kernel": np.zeros((2, 2), np.float32)}}}
        state, total = tx.init(params), 0.0
        for _ in range(20):
            updates, state = tx.update(zeros, state, params)
            total -= float(updates["layers"]["up"]["kernel"][0, 0])
        return total

    independent, ordinary = map(shrinkage, ("independent decay", "ordinary decay"))
    assert 12 / 30 < independent < 13 / 30, "a thirtieth a step, after 15 of warm-up"
    assert ordinary / independent == pytest.approx(ratio, rel=1e-4)
