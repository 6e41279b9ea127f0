"""Prepared data sets are read without TensorFlow, and broken ones are named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lostjax.data import DataError, open_corpus, prepare_data
from lostjax.data.text.prepared_tfds import open_prepared


class Speeches(tfds.core.GeneratorBasedBuilder):
    """A data set of a few texts."""

    VERSION = tfds.core.Version("1.0.0")
    TEXTS = {"train": [b"first \xc3\xa9", b"", b"second"], "test": [b"held out"]}

    def _info(self):
        features = {"text": tfds.features.Text(), "count": np.int64}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, _):
        return {
            name: self._generate_examples(texts) for name, texts in self.TEXTS.items()
        }

    def _generate_examples(self, texts):
        for i, text in enumerate(texts):
            yield i, {"text": text, "count": i}


class Whole(Speeches):
    """A data set without a split to hold out, and with a text that is none."""

    TEXTS = {"train": [b"fine", b"bad \xff"]}


def prepare(builder, folder):
    made = builder(data_dir=str(folder), file_format="array_record")
    made.download_and_prepare()
    return Path(str(made.data_path))


@pytest.fixture(scope="module")
def speeches(tmp_path_factory):
    return prepare(Speeches, tmp_path_factory.mktemp("tfds"))


def test_a_directory_is_read_with_its_own_heldout_split(speeches):
    corpus = open_corpus(f"tfds:{speeches}")
    assert list(corpus.train) == ["first é", "second"]
    assert list(corpus.heldout) == ["held out"]


def test_the_only_data_set_below_a_directory_is_found(speeches):
    assert open_prepared(str(speeches.parent.parent))[0].directory == speeches


def test_a_name_is_found_where_data_sets_are_prepared(speeches):
    tfds.core.add_data_dir(str(speeches.parent.parent))
    corpus = open_corpus("tfds:speeches")
    assert list(corpus.train) == ["first é", "second"]
    assert list(open_corpus("tfds:speeches:1.0.0").heldout) == ["held out"]


def test_strings_are_text_as_well(speeches, monkeypatch):
    class Records(list):
        def __getitems__(self, indices):
            return [self[index] for index in indices]

    train, _ = open_prepared(str(speeches))
    texts = [str(i) for i in range(3000)]
    records = Records({"text": text} for text in texts)
    monkeypatch.setitem(train.__dict__, "_records", records)
    assert list(train) == texts


class Other(Speeches):
    """The same data set with another text to train on."""

    TEXTS = Speeches.TEXTS | {"train": [b"first \xc3\xa9", b"", b"third"]}


def test_the_fingerprint_follows_the_files(speeches, tmp_path):
    train, held = open_prepared(str(speeches))
    copy = shutil.copytree(speeches, tmp_path / "copy")
    assert open_prepared(str(copy))[0].fingerprint == train.fingerprint
    other = open_prepared(str(prepare(Other, tmp_path)))[0].fingerprint
    assert len({train.fingerprint, held.fingerprint, other}) == 3


def edit_splits(directory, edit):
    path = directory / "dataset_info.json"
    info = json.loads(path.read_text())
    for split in info["splits"]:
        edit(split)
    path.write_text(json.dumps(info))


def rename_by_template(directory, template):
    """Name the files as a data set with a template of its own does."""
    edit_splits(directory, lambda split: split.update(filepathTemplate=template))
    for path in directory.glob("*.array_record*"):
        split = path.name.split("-")[1].split(".")[0]
        path.rename(directory / template.format(SPLIT=split, FILEFORMAT="array_record"))
    return directory


@pytest.mark.parametrize("template", ["{SPLIT}_part.{FILEFORMAT}", "{SPLIT}"])
def test_files_with_names_of_their_own_are_hashed(speeches, tmp_path, template):
    copies = [
        rename_by_template(shutil.copytree(made, tmp_path / str(i)), template)
        for i, made in enumerate([speeches, prepare(Other, tmp_path)])
    ]
    found = [part for copy in copies for part in open_prepared(str(copy))]
    assert list(found[0]) == ["first é", "second"] and list(found[1]) == ["held out"]
    prints = [part.fingerprint for part in found]
    assert prints[1] == prints[3] and len(set(prints)) == 3
    assert prints[:2] == [part.fingerprint for part in open_prepared(str(speeches))]


def test_one_text_never_takes_the_place_of_another(speeches, tmp_path):
    """What is held out, and a second data set, have tokens of their own."""
    rows = []
    for i, made in enumerate([speeches, prepare(Other, tmp_path)]):
        copy = shutil.copytree(made, tmp_path / str(i))
        copy = rename_by_template(copy, "{SPLIT}_part.{FILEFORMAT}")
        data = prepare_data(
            f"tfds:{copy}", tokenizer="bytes", seq_len=4, batch_size=1, seed=0,
            cache_dir=tmp_path / "cache",
        )  # fmt: skip
        parts = (data.train.sources[0], data.heldout.sources[0])
        rows += [np.asarray(part.stream) for part in parts]
    texts = [bytes(ids[ids < 256].astype(np.uint8)).decode() for ids in rows]
    assert texts == ["first ésecond", "held out", "first éthird", "held out"]


def test_a_data_set_is_not_held_out_from_itself(speeches):
    with pytest.raises(DataError, match="speeches-train.* is also in the training"):
        open_corpus(f"tfds:{speeches}", heldout=f"tfds:{speeches}/")


def test_files_that_are_not_read_as_they_are_listed_are_refused(speeches, tmp_path):
    def fails(message, edit):
        copy = shutil.copytree(speeches, tmp_path / "copy", dirs_exist_ok=True)
        edit_splits(copy, edit)
        with pytest.raises(DataError, match=message) as caught:
            open_prepared(str(copy))
        assert "\n" not in str(caught.value)

    one = {"shardLengths": ["1"]}
    fails(r"lists 1 records of .*train.*, but they hold 3", lambda s: s.update(one))
    none = {"shardLengths": ["0"]}
    fails("1.0.0|copy", lambda s: s.update(none))
    template = "speeches-train.{FILEFORMAT}-{SHARD_X_OF_Y}"
    same = {"filepathTemplate": template, "shardLengths": ["3"]}
    fails("'train' and 'test' both hold .*speeches-train", lambda s: s.update(same))
    gone = {"filepathTemplate": "gone-{SPLIT}"}
    fails("holds no array_record files of the split 'train'", lambda s: s.update(gone))


def test_what_is_missing_or_broken_is_one_clear_line(speeches, tmp_path):
    def fails(message, *, field="", of="copy"):
        with pytest.raises(DataError, match=message) as caught:
            corpus = open_corpus(f"tfds:{tmp_path / of}{field}")
            list(corpus.train)
        assert "\n" not in str(caught.value)

    copy = shutil.copytree(speeches, tmp_path / "copy")
    fails(r"no field 'body' \(its fields: count, text\)", field="#body")
    fails("must be text, not int", field="#count")
    (file,) = copy.glob("*-train.array_record*")
    file.write_bytes(b"not an array_record file")
    fails("copy")
    for path in copy.glob("*.array_record*"):
        path.rename(path.with_name(path.name.replace("array_record", "tfrecord")))
    fails('holds no array_record files.*file_format="array_record"')
    info = json.loads((copy / "dataset_info.json").read_text())
    del info["splits"][0 if info["splits"][0]["name"] == "train" else 1]
    (copy / "dataset_info.json").write_text(json.dumps(info))
    (copy / "x.array_record").write_bytes(b"")
    fails("no split 'train'")
    (copy / "dataset_info.json").write_text("{")
    fails("not a prepared data set")
    fails("neither a directory nor", of="gone/deeper")


def test_text_that_is_not_utf8_is_named(tmp_path):
    corpus = open_corpus(f"tfds:{prepare(Whole, tmp_path)}", heldout="sotu")
    with pytest.raises(DataError, match=r"train record \d\): not UTF-8 .*offset 4"):
        list(corpus.train)


def test_no_tensorflow_is_loaded(speeches):
    program = (
        "import sys; from lostjax.data import open_corpus;"
        f"print(len(list(open_corpus('tfds:{speeches}').train)));"
        "print([m for m in ('tensorflow', 'torch') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split("\n")[:2] == ["2", "[]"]


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name"])
def test_nothing_is_imported_on_a_data_sets_word(speeches, tmp_path, monkeypatch, key):
    touched = tmp_path / "touched"
    (tmp_path / "crafted.py").write_text(f"open({str(touched)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    copy = shutil.copytree(speeches, tmp_path / "copy" / "1.0.0")
    features = json.loads((copy / "features.json").read_text())
    text = features["featuresDict"]["features"]["text"]
    del text["pythonClassName"]
    text[key] = "crafted.Feature"
    (copy / "features.json").write_text(json.dumps(features))
    with pytest.raises(DataError, match="names the class 'crafted.Feature'"):
        open_prepared(str(copy))
    assert not touched.exists()


def test_names_that_somebody_chose_are_told_in_one_line(speeches, tmp_path):
    crafted = shutil.copytree(speeches, tmp_path / "crafted")
    path = crafted / "features.json"
    found = json.loads(path.read_text())
    fields = found["featuresDict"]["features"]
    fields["a\nb"] = fields.pop("text")
    path.write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"its fields: 'a\\nb', count\)") as refused:
        open_prepared(str(crafted))
    assert "\n" not in str(refused.value)
