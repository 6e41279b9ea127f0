"""Sets of lifetimes: what is read of a package's files, and what is refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from lostjax.data import (
    LEAKS,
    DataError,
    encode_lifetimes,
    load_scikit_survival,
    load_survset,
)
from lostjax.data.samples import lifetimes

pandas = pytest.importorskip("pandas")

ARFF = """@relation made
@attribute age numeric
@attribute sex {F,M}
@attribute futime numeric
@attribute death {alive,dead}
@attribute chapter {Blood,Skin}
@data
97,F,85,dead,Blood
?,M,12,alive,?
60,?,40,dead,Skin
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Packages' folders with one tiny set each."""
    frame = pandas.DataFrame(
        {
            "pid": [1, 2, 3, 4],
            "event": [1, 0, 1, 0],
            "time": [3.0, 4.0, 0.0, 2.5],
            "num_age": [50.0, np.nan, 70.0, 190.0],
            "fac_sex": pandas.Categorical(
                ["m", "f", None, "f"], categories=pandas.Index(["f", "m"], dtype=object)
            ),
        }
    )
    # As the package has them: pandas 3 would make them Arrow's strings.
    frame.columns = pandas.Index(list(frame.columns), dtype=object)
    tables = tmp_path / "resources" / "pickles"
    tables.mkdir(parents=True)
    frame.to_pickle(tables / "made.pickle")
    frame.assign(pid=1).to_pickle(tables / "several.pickle")
    (tmp_path / "datasets" / "data").mkdir(parents=True)
    (tmp_path / "datasets" / "data" / "flchain.arff").write_text(ARFF)
    monkeypatch.setattr(lifetimes, "_find_package", lambda *_, **__: tmp_path)
    return tables


def test_a_table_of_survset(package):
    found = load_survset("made")
    np.testing.assert_array_equal(found.times_B, np.float32([3, 4, 0, 2.5]))
    assert found.events_B.tolist() == [True, False, True, False]
    np.testing.assert_array_equal(found.numbers_BN[:, 0], [50, np.nan, 70, 190])
    assert found.levels == (("f", "m", "missing"),)
    assert found.categories_BC[:, 0].tolist() == [1, 0, 2, 0]
    assert (found.number_names, found.category_names) == (("age",), ("sex",))
    assert load_survset("made", without=["sex"]).categories_BC.shape == (4, 0)
    assert load_survset("made", without=["age"]).numbers_BN.shape == (4, 0)


def test_a_file_of_scikit_survival(package):
    found = load_scikit_survival("flchain", without=LEAKS["flchain"])
    assert found.times_B.tolist() == [85, 12, 40]
    assert found.events_B.tolist() == [True, False, True]
    np.testing.assert_array_equal(found.numbers_BN[:, 0], [97, np.nan, 60])
    assert found.levels == (("F", "M", "missing"),)


def test_inputs_are_standardised_by_those_that_train(package):
    x = encode_lifetimes(load_survset("made"), train_rows=[0, 1, 2])
    # 50 and 70 have mean 60 and deviation 10, and 13 is cut to 5; then what is not
    # known; then the levels.
    np.testing.assert_array_equal(
        x, [[-1, 0, 0, 1, 0], [0, 1, 1, 0, 0], [1, 0, 0, 0, 1], [5, 0, 1, 0, 0]]
    )


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("made_by_a_pickle"),))


def test_a_pickle_that_would_run_code_is_refused(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (package / "bad.pickle").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(DataError, match=r"bad\.pickle: asks for .* refused"):
        load_survset("bad")
    assert not Path("made_by_a_pickle").exists()


def test_damage_and_wrong_names_are_one_line(package):
    whole = (package / "made.pickle").read_bytes()
    (package / "cut.pickle").write_bytes(whole[: len(whole) // 2])
    (package / "list.pickle").write_bytes(pickle.dumps([1, 2]))
    for name, match in (
        ("cut", r"cut\.pickle: cannot be read"),
        ("list", "holds a list, must be a table"),
        ("several", "several rows each"),
        ("mad", "mad: SurvSet has no such set.*made"),
    ):
        with pytest.raises(DataError, match=match):
            load_survset(name)
    with pytest.raises(DataError, match="no column sexx.*sex"):
        load_survset("made", without=["sexx"])
    with pytest.raises(DataError, match="flchan: must be one of .*flchain"):
        load_scikit_survival("flchan")
    with pytest.raises(DataError, match=r"whas500\.arff: cannot be read"):
        load_scikit_survival("whas500")


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(lifetimes.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"comes with SurvSet: pip install 'lostjax\["):
        load_survset("support2")
    with pytest.raises(DataError, match="comes with scikit-survival: pip install"):
        load_scikit_survival("flchain")


def test_survset_itself():
    pytest.importorskip("SurvSet")
    found = load_survset("support2", without=LEAKS["support2"])
    assert found.times_B.shape == (9105,)
    assert found.events_B.mean() == pytest.approx(0.681, abs=1e-3)
    assert "sfdm2" not in found.category_names and "age" in found.number_names


def test_scikit_survival_itself():
    pytest.importorskip("sksurv.datasets")
    found = load_scikit_survival("flchain", without=LEAKS["flchain"])
    assert found.times_B.shape == (7874,)
    assert found.events_B.sum() == 2169
