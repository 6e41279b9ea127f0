"""The one call that a trainer makes: default text, files, tokens, mixtures, errors."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lostjax.data import DataError, prepare_data
from lostjax.data.tokenizers import tokenizer
from lostjax.data.tokenizers.bpe import BpeTokenizer
from lostjax.data.tokenizers.byte import ByteTokenizer

SHAPE = {"seq_len": 16, "batch_size": 4, "seed": 0}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "long.txt").write_text("a line of some text, with words\n" * 200)
    lines = [json.dumps({"text": f"record {i} of a few"}) for i in range(40)]
    (tmp_path / "few.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_the_default_text_is_whole(tmp_path):
    data = prepare_data("sotu", tokenizer="bytes", cache_dir=tmp_path, **SHAPE)
    assert data.train_bytes == 11_634_380 and data.heldout_bytes == 551_371
    assert data.train_tokens == data.train_bytes + 236
    assert data.heldout_tokens == data.heldout_bytes + 13
    start = time.perf_counter()
    again = prepare_data("sotu", tokenizer="bytes", cache_dir=tmp_path, **SHAPE)
    assert time.perf_counter() - start < 1.0
    for one, two in zip(again.train.batch_at(7), data.train.batch_at(7), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_text_file_is_trained_on_and_its_end_held_out(folder):
    data = prepare_data(
        str(folder / "long.txt"), tokenizer="bpe:270", cache_dir=folder / "c", **SHAPE
    )
    size = (folder / "long.txt").stat().st_size
    assert data.train_bytes + data.heldout_bytes == size
    assert 0.03 * size < data.heldout_bytes <= 0.05 * size + 1
    targets = [
        data.heldout.batch_at(i).targets_BT for i in range(data.heldout.n_batches)
    ]
    held = data.tokenizer.decode(np.concatenate(targets).ravel())
    assert held == "".join(data.corpus.heldout)


def test_a_mixture_keeps_its_shares_and_every_held_out_byte(folder):
    data = prepare_data(
        f"0.75*{folder}/long.txt,0.25*{folder}/few.jsonl",
        tokenizer="bytes",
        cache_dir=folder / "c",
        **SHAPE,
    )
    first = data.train.sources[0].n_rows
    counts = [(data.train.batch_at(step).example_B < first).sum() for step in range(5)]
    assert counts == [3] * 5
    assert data.heldout_bytes == sum(len(t.encode()) for t in data.corpus.heldout)


def test_tokens_train_with_the_tokenizer_that_made_them(folder):
    text = prepare_data(
        str(folder / "long.txt"), tokenizer="bpe:270", cache_dir=folder / "c", **SHAPE
    )
    file = text.tokenizer.save(folder / "my.json")
    np.save(folder / "tokens.npy", text.train.sources[0].stream)
    data = prepare_data(
        str(folder / "tokens.npy"),
        heldout=f"{folder}/few.jsonl",
        tokenizer=str(file),
        cache_dir=folder / "c",
        **SHAPE,
    )
    assert data.train_tokens == text.train_tokens
    assert data.train_bytes == text.train_bytes


def test_the_vocabulary_may_be_large(folder):
    np.save(folder / "tokens.npy", np.full(100, 70_000))
    with pytest.raises(DataError, match="id 70000 at index 0 .* vocabulary of 257"):
        prepare_data(
            str(folder / "tokens.npy"), tokenizer="bytes", cache_dir=folder, **SHAPE
        )


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("{}/short.txt", {}, r"short.txt: too short: \d+ training tok"),
        ("{}/one.txt", {"seq_len": 1}, "one.txt: (too short|contains no text)"),
        ("{}/blank.jsonl", {}, "contains no text"),
        ("{}/long.txt", {"heldout": "{}/blank.jsonl"}, "no text is held out"),
        ("{}/tokens.npy", {"tokenizer": "bpe:300"}, "already tokenised"),
        ("{}/latin.txt", {}, "latin.txt: not UTF-8"),
        ("{}/long.txt", {"cache_dir": "{}/long.txt"}, "cache cannot be written"),
        ("{}/long.txt", {"batch_size": 0}, "batch_size: 0"),
        ("{}/long.txt", {"seq_len": 0}, "seq_len: 0"),
    ],
)
def test_bad_input_is_one_clear_line(folder, source, options, message):
    (folder / "short.txt").write_text("short\n")
    (folder / "one.txt").write_text("x")
    (folder / "blank.jsonl").write_text('{"text": ""}\n\n')
    (folder / "latin.txt").write_bytes(b"\xe9" * 50)
    np.save(folder / "tokens.npy", np.arange(50))
    options = {
        name: value.replace("{}", str(folder)) if isinstance(value, str) else value
        for name, value in options.items()
    }
    arguments = SHAPE | {"tokenizer": "bytes", "cache_dir": str(folder / "c")} | options
    with pytest.raises(DataError, match=message) as caught:
        prepare_data(source.replace("{}", str(folder)), **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wait", [0.0, 0.1, 0.3])
def test_a_kill_leaves_nothing_that_is_read(tmp_path, wait):
    """Killed while it packs; the next run makes the same as if nothing had been."""
    (tmp_path / "a.txt").write_text("words and more words\n" * 200_000)
    program = (
        "import sys; from lostjax.data import prepare_data; print('go', flush=True);"
        "prepare_data(sys.argv[1], tokenizer='bytes', seq_len=16, batch_size=4,"
        " seed=0, cache_dir=sys.argv[2])"
    )
    arguments = [str(tmp_path / "a.txt"), str(tmp_path / "c")]
    child = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE
    )
    child.stdout.readline()
    time.sleep(wait)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    clean = prepare_data(
        arguments[0], tokenizer="bytes", cache_dir=tmp_path / "d", **SHAPE
    )
    data = prepare_data(
        arguments[0], tokenizer="bytes", cache_dir=arguments[1], **SHAPE
    )
    np.testing.assert_array_equal(
        data.train.sources[0].stream, clean.train.sources[0].stream
    )


def test_importing_the_room_is_light():
    program = (
        "import sys, lostjax.data; print([name for name in ('grain', 'sentencepiece',"
        " 'tensorflow_datasets', 'pandas', 'tensorflow') if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


@pytest.fixture
def changing(monkeypatch):
    """Change a file when the text has been read for the first time since."""

    def change(path, when):
        owner, name = when
        work = getattr(owner, name)

        def once(*arguments, **options):
            monkeypatch.setattr(owner, name, work)
            done = work(*arguments, **options)
            data = path.read_bytes()
            path.write_bytes(data[:-9] + data[-9:].swapcase())
            return done

        monkeypatch.setattr(owner, name, once)

    return change


TRAINING = (tokenizer, "train_bpe")
ENCODING = (BpeTokenizer, "encode_batch")
DECODING = (ByteTokenizer, "decode")


@pytest.mark.parametrize(
    "name, spec, when",
    [
        ("long.txt", "bpe:270", TRAINING),
        ("long.txt", "bpe:270", ENCODING),
        ("few.jsonl", "bpe:270", TRAINING),
        ("few.jsonl", "bpe:270", ENCODING),
        ("ids.bin", "bytes", DECODING),
    ],
)
def test_a_text_that_changes_while_it_is_read_is_never_cached(
    folder, changing, name, spec, when
):
    path = folder / name
    (folder / "ids.bin").write_bytes(np.arange(97, 123, dtype="<u2").tobytes() * 9)

    def prepare(cache):
        options = SHAPE | {"tokenizer": spec, "cache_dir": folder / cache}
        return prepare_data(str(path), **options)

    before = path.read_bytes()
    changing(path, when)
    with pytest.raises(DataError, match=f"{name}: changed while it was being") as said:
        prepare("c")
    assert "\n" not in str(said.value) and path.read_bytes() != before
    made = [entry for entry in (folder / "c").rglob("*") if entry.is_file()]
    assert all("tokenizers" in entry.parts for entry in made)
    assert not made or when is not TRAINING
    path.write_bytes(before)
    again, fresh = prepare("c"), prepare("other")
    assert again.identity == fresh.identity
    for one, two in zip(again.train.sources, fresh.train.sources, strict=True):
        np.testing.assert_array_equal(one.stream, two.stream)
