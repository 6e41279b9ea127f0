"""Files that somebody crafted, or that broke: each is read, or refused in one line.

Every reader gets files that it should read, with bytes flipped, cut out, doubled or put
in, and JSON whose values were exchanged for others. What it may raise is what its
docstring names, with a message of one line: nothing else, and no end of the process.
"""

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tensorflow_datasets as tfds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lostjax.data import open_corpus
from lostjax.data.text.documents import JsonLines, TextFiles
from lostjax.data.text.token_files import open_tokens
from lostjax.data.tokenizers.bpe import train_bpe
from lostjax.data.tokenizers.tokenizer import load_tokenizer
from lostjax.disk.manifest import (
    _SEAL,
    MANIFEST,
    PIECE_BYTES,
    _digest,
    find_damage,
    write_manifest,
)
from lostjax.errors import ConfigError, DataError
from lostjax.train.config.presets import get_preset
from lostjax.train.config.stored import load_config, save_config
from lostjax.train.log.json_lines import read_metrics

FEW, MANY = 150, 4000
"""Inputs to each reader: in every test run, and in `make torture`."""

WORDS = "We hold these truths to be self-evident, that all are created equal. "


def read_tokenizer(path):
    tokenizer = load_tokenizer(str(path))
    tokenizer.decode(np.concatenate(tokenizer.encode_batch([WORDS, "é\u2028", ""])))
    assert 0 <= tokenizer.eos_id < tokenizer.vocab_size


def read_metrics_of(path):
    read_metrics(path.parent)


def read_forged_manifest(path):
    """Make a manifest of its entries, with the hash of its own text as it should be."""
    start = f'{{"format": 1, "piece_bytes": {PIECE_BYTES}, "files": '
    text = start.encode() + path.read_bytes()
    path.write_bytes(text + _SEAL.format(_digest(text)).encode())
    read_manifest_of(path)


def read_manifest_of(path):
    damage = find_damage(path.parent)
    assert all("\n" not in line for line in damage)


def sentencepiece_bytes():
    """A model without the usual 240 kB of normalisation, so that all parts are hit."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS] * 4),
        model_writer=model,
        vocab_size=80,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return model.getvalue()


def read_prepared(path):
    corpus = open_corpus(f"tfds:{path.parent}")
    list(corpus.train)


class BrokenSpeeches(tfds.core.GeneratorBasedBuilder):
    """A data set of a few texts."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, _):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield from enumerate([{"text": WORDS}, {"text": "é"}])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The files of a prepared TFDS data set by name."""
    folder = tmp_path_factory.mktemp("tfds")
    made = BrokenSpeeches(data_dir=str(folder), file_format="array_record")
    made.download_and_prepare()
    return {path.name: path.read_bytes() for path in Path(made.data_path).iterdir()}


def npy_bytes(tokens):
    header = f"{{'descr': '{tokens.dtype.str}', 'fortran_order': False, "
    header = (header + f"'shape': {tokens.shape}}}").ljust(117) + "\n"
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
    return start + header.encode() + tokens.tobytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, prepared):
    """Files that are as they should be, by name of what they are given to."""
    folder = tmp_path_factory.mktemp("whole")
    train_bpe(300, [WORDS]).save(folder / "tokenizer.json")
    save_config(folder / "config.json", get_preset("smoke"))
    config = json.loads((folder / "config.json").read_bytes())
    del config["hash"]  # or nothing but the hash would be looked at
    (folder / "piece").write_bytes(b"some parameters")
    write_manifest(folder)
    lines = [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.25}]
    texts = [{"text": WORDS}, {"text": "é", "n": 3}]
    return {
        "tokenizer": (folder / "tokenizer.json").read_bytes(),
        "sentencepiece": sentencepiece_bytes(),
        "configuration": json.dumps(config).encode(),
        "manifest": (folder / MANIFEST).read_bytes(),
        "forged manifest": json.dumps({"piece": [15, ["0" * 32]]}).encode(),
        "metrics": "".join(json.dumps(line) + "\n" for line in lines).encode(),
        "json lines": "".join(json.dumps(line) + "\n" for line in texts).encode(),
        "text": WORDS.encode(),
        "TFDS features": prepared["features.json"],
        "TFDS metadata": prepared["dataset_info.json"],
        "tokens": npy_bytes(np.arange(40, dtype=np.uint16)),
        "raw tokens": np.arange(40, dtype="<u2").tobytes(),
    }


READERS = {
    # what: (name of the file, reader, what it may raise)
    "tokenizer": ("tokenizer.json", read_tokenizer, DataError),
    "sentencepiece": ("tokenizer.model", read_tokenizer, DataError),
    "configuration": ("config.json", load_config, ConfigError),
    "manifest": (MANIFEST, read_manifest_of, ()),
    "forged manifest": (MANIFEST, read_forged_manifest, ()),
    "metrics": ("metrics.jsonl", read_metrics_of, ValueError),
    "json lines": ("a.jsonl", lambda path: list(JsonLines((path,))), DataError),
    "text": ("a.txt", lambda path: list(TextFiles((path,))), DataError),
    "TFDS features": ("features.json", read_prepared, DataError),
    "TFDS metadata": ("dataset_info.json", read_prepared, DataError),
    "tokens": ("a.npy", lambda path: np.asarray(open_tokens(path)).sum(), DataError),
    "raw tokens": (
        "a.bin",
        lambda path: np.asarray(open_tokens(path)).sum(),
        DataError,
    ),
}

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([10**30, 10**400, -1, 2**62])
    | st.sampled_from(["[" * 3000, "\ud800", "/etc/passwd", "../x"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip

NAMES = st.text(max_size=5) | st.sampled_from(
    ["", ".", "a/../b", "a//b", "/etc/passwd", "a\x00", "a\nb", "\ud800", "x" * 5000]
)


def broken(draw, data):
    """Change some bytes, or some value where the file is JSON."""
    if draw(st.booleans()):
        try:
            return exchange(draw, json.loads(data))
        except ValueError:  # JSON lines, or no JSON at all
            pass
    for _ in range(draw(st.integers(1, 3))):
        first = draw(st.integers(0, len(data)))
        last = min(len(data), first + draw(st.integers(0, 40)))
        middle = draw(
            st.binary(max_size=8)
            | st.just(data[first:last] * 3)
            | st.just(b"")
            | st.sampled_from([b"[" * 5000, b"9" * 5000, b"\xff", b"NaN", b"\x00" * 9])
        )
        data = data[:first] + middle + data[last:]
    return data


def exchange(draw, whole):
    """Put something else in the place of a value within, or of its name."""
    owner = whole
    while True:
        if isinstance(owner, dict) and owner:
            key = draw(st.sampled_from(sorted(owner)))
        elif isinstance(owner, list) and owner:
            key = draw(st.integers(0, len(owner) - 1))
        else:
            break
        inside = owner[key]
        if not isinstance(inside, dict | list) or not inside or draw(st.booleans()):
            if isinstance(owner, dict) and draw(st.booleans()):
                owner[draw(NAMES)] = owner.pop(key)
            else:
                owner[key] = draw(VALUES)
            break
        owner = inside
    return json.dumps(whole).encode("utf-8", "surrogatepass")


def put_beside(what, prepared, folder):
    """Write the rest of the files of a TFDS data set."""
    for name, data in prepared.items() if what.startswith("TFDS") else ():
        (folder / name).write_bytes(data)


def check(what, whole, folder, *, examples):
    name, read, errors = READERS[what]
    path = folder / name
    read_it = [0]

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def every_file_is_read_or_refused(data):
        path.write_bytes(broken(data.draw, whole[what]))
        try:
            read(path)
            read_it[0] += 1
        except errors as error:
            assert str(error).strip() and "\n" not in str(error)

    path.write_bytes(whole[what])
    read(path)
    every_file_is_read_or_refused()
    assert read_it[0] < examples or what in ("text", "raw tokens") or "manifest" in what


@pytest.mark.parametrize("what", READERS)
def test_a_broken_file_is_read_or_refused_in_one_line(what, whole, prepared, tmp_path):
    put_beside(what, prepared, tmp_path)
    check(what, whole, tmp_path, examples=FEW)


@pytest.mark.torture
@pytest.mark.parametrize("what", READERS)
def test_thousands_of_broken_files_are(what, whole, prepared, tmp_path):
    put_beside(what, prepared, tmp_path)
    check(what, whole, tmp_path, examples=MANY)


def test_nothing_is_unpickled(tmp_path):
    """An array of objects runs code when it is unpickled; so does any pickle."""

    class Touch:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    for name in ("a.npy", "a.bin"):
        np.save(tmp_path / "a.npy", np.array([Touch()], object), allow_pickle=True)
        (tmp_path / "a.npy").rename(tmp_path / f"crafted-{name}")
        with pytest.raises(DataError):
            np.asarray(open_tokens(tmp_path / f"crafted-{name}"), np.uint16).sum()
            load_tokenizer(str(tmp_path / f"crafted-{name}"))
    assert not (tmp_path / "touched").exists()
