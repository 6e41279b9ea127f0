"""Text from a run's moving average: the parameters that it is made from."""

import jax
import numpy as np
import pytest

from lostjax.generate import main as generate
from lostjax.train.__main__ import main as train
from lostjax.train.config.fields import replace_in
from lostjax.train.config.stored import load_config, save_config
from lostjax.train.interface import sampling

DECAY = 0.75


@pytest.fixture(scope="module")
def mesa(text_file, cache_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("mesa") / "run"
    words = f"""--preset=smoke --mesh=data:1 --steps=3 --checkpoint-every=1 --keep=3
        --data.seq-len=32 --model.n-layers=1 --objective.trajectory=mesa
        --objective.trajectory.decay={DECAY} --data.source={text_file}
        --data.cache-dir={cache_dir} --run-dir={directory}"""
    assert train(words.split()) == 0
    return directory


@pytest.fixture
def used(monkeypatch):
    """The variables that text was made from."""
    used = []
    sample = sampling.sample_tokens

    def watched(model, variables, **options):
        used.append(variables)
        return sample(model, variables, **options)

    monkeypatch.setattr(sampling, "sample_tokens", watched)
    return used


def test_the_average_is_that_of_the_steps(mesa, used):
    for words in (["--step=2", "--average"], ["--average"], []):
        assert generate([str(mesa), "--tokens=1", *words]) == 0
    before, average, last = (tree["params"] for tree in used)
    jax.tree.map(
        lambda v, u, x: np.testing.assert_allclose(
            v, DECAY * u + (1 - DECAY) * x, rtol=1e-5, atol=1e-7
        ),
        average,
        before,
        last,
    )
    assert not np.allclose(average["head"]["kernel"], last["head"]["kernel"])
    jax.tree.map(
        np.testing.assert_array_equal, used[1]["channels"], used[2]["channels"]
    )


@pytest.mark.parametrize("words", [[], ["--average"]])
def test_parameters_are_rounded_where_that_is_asked_for(mesa, used, words):
    for dtype in ("float32", "bfloat16"):
        assert generate([str(mesa), "--tokens=1", f"--dtype={dtype}", *words]) == 0
    whole, rounded = (tree["params"] for tree in used)
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(x.astype("bfloat16"), y),
        whole,
        rounded,
    )
    types = {leaf.dtype.name for leaf in jax.tree.leaves(rounded)}
    assert types == {"bfloat16"}


def test_a_run_without_an_average_says_so(mesa, tmp_path, capsys):
    config = load_config(mesa / "config.json")
    config = replace_in(config, "objective.trajectory", name="lagged")
    save_config(tmp_path / "config.json", config)
    assert generate([str(tmp_path), "--average"]) == 2
    said = capsys.readouterr().err
    assert "keeps no moving average" in said and "trajectory=mesa" in said
    assert said.count("\n") == 1
