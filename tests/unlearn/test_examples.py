"""Examples become rows whose weights are 1 at the answers, and bad lines are named."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lostjax.data import load_tokenizer
from lostjax.errors import DataError
from lostjax.losses import total_variation
from lostjax.unlearn.examples import (
    count_positions,
    encode_answers,
    read_examples,
    rows_at,
)
from lostjax.unlearn.methods import METHODS, Forgotten, Settings, log_probability
from lostjax.unlearn.relearning import Relearning, split_tenth

BYTES = load_tokenizer("bytes")


def on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


def read(place, *lines, seq_len=32, tokenizer=BYTES):
    path = place / "examples.jsonl"
    path.write_text(
        "\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines)
    )
    return read_examples(
        str(path),
        flag="--forget",
        tokenizer=tokenizer,
        seq_len=seq_len,
        template="unknown",
    )


def test_weights_are_one_at_the_answer_alone(tmp_path):
    found = read(
        tmp_path,
        {"prompt": "Q:", "answer": " abc"},
        "",
        {"question": "Why?", "answer": "x", "template": "no"},
    )
    length = count_positions(found)
    assert length == 16  # "Q: unknown" has 10 bytes
    rows = encode_answers(found, length=length, eos=BYTES.eos_id)
    first = rows.targets_ET[0][rows.weights_ET[0] > 0]
    assert BYTES.decode(first) == " abc" and rows.lengths_E.tolist() == [6, 5]
    np.testing.assert_array_equal(rows.tokens_ET[0, 1:6], rows.targets_ET[0, :5])
    templates = encode_answers(
        found, length=length, eos=BYTES.eos_id, answer_of=lambda each: each.template
    )
    shown = [
        BYTES.decode(targets[weights > 0])
        for targets, weights in zip(
            templates.targets_ET, templates.weights_ET, strict=True
        )
    ]
    # The space before the answer is put before the template, which has none.
    assert shown == [" unknown", "no"]
    batch = rows.take([1, -1]).as_batch()
    assert batch.weights_BT[1].sum() == 0 and batch.segments_BT[1].sum() == 0
    assert batch.segments_BT[0].sum() == 5


def test_a_token_that_spans_prompt_and_answer_belongs_to_the_answer(tmp_path):
    merging = load_tokenizer("bpe:300", ["ab cd " * 50], cache_dir=tmp_path)
    [found] = read(tmp_path, {"prompt": "a", "answer": "b cd"}, tokenizer=merging)
    whole = merging.encode_batch(["ab cd"])[0].tolist()
    assert [*found.prompt, *found.answer] == whole
    assert merging.decode([*found.prompt, *found.template]) == "aunknown"


def test_a_passage_is_cut_into_windows(tmp_path):
    text = "".join(map(chr, range(65, 65 + 50)))
    found = read(tmp_path, {"text": text}, seq_len=20)
    assert [len(x.prompt) + len(x.answer) for x in found] == [20, 20, 10]
    assert [len(x.prompt) for x in found] == [5, 5, 2]
    joined = [token for x in found for token in (*x.prompt, *x.answer)]
    assert BYTES.decode(joined) == text
    assert count_positions(found) <= 24


@pytest.mark.parametrize(
    "line, said",
    [
        ("{", "line 2: is not JSON"),
        ("[1]", "line 2: is not an object"),
        ({"prompt": "a"}, "line 2: has no 'answer'"),
        ({"prompt": "a", "answer": " "}, "line 2: 'answer' is empty"),
        ({"text": ""}, "line 2: 'text' is empty"),
        ({"text": 3}, "line 2: 'text' is not text"),
        ({"prompt": "a", "answer": "\ud800"}, "line 2: 'answer' is not valid Unicode"),
        ({"prompt": "a", "answer": " unknown"}, "line 2: the template equals"),
        ({"text": "unknown"}, "line 2: the template equals the passage"),
        ({"prompt": "a", "answer": "b", "template": " "}, "the template is empty"),
        ({"prompt": "a" * 40, "answer": "b"}, "line 2: has 47 tokens, but"),
    ],
    ids=str,
)
def test_a_bad_line_is_named(line, said, tmp_path):
    with pytest.raises(DataError, match=said.replace("(", r"\(")):
        read(tmp_path, {"prompt": "a", "answer": "c"}, line)


def test_files_that_hold_nothing_are_named(tmp_path):
    with pytest.raises(DataError, match="holds no example"):
        read(tmp_path, "")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, said in (("binary", "is not UTF-8"), ("none", "No such file")):
        with pytest.raises(DataError, match=said):
            read_examples(
                str(tmp_path / name),
                flag="--forget",
                tokenizer=BYTES,
                seq_len=8,
                template="x",
            )


def test_each_row_comes_once_an_epoch_in_an_order_of_its_own():
    drawn = np.concatenate(
        [rows_at(step, n_rows=5, batch_size=3, seed=0) for step in range(10)]
    ).reshape(6, 5)
    np.testing.assert_array_equal(np.sort(drawn), np.tile(np.arange(5), (6, 1)))
    assert len({tuple(order) for order in drawn.tolist()}) > 3


@pytest.mark.parametrize("name", METHODS)
def test_descending_a_method_makes_answers_less_or_templates_more_likely(
    name, tmp_path
):
    found = read(tmp_path, {"prompt": "Q:", "answer": " abc"})
    answer, template = (
        on_device(encode_answers(found, length=16, eos=256, answer_of=of).as_batch())
        for of in (lambda each: each.answer, lambda each: each.template)
    )
    nats = {"answer": np.full((1, 16), 0.5), "template": np.full((1, 16), 2.0)}
    references = on_device((np.float32([-1]), np.float32([-9])))
    batch = Forgotten(answer, template, *references, answer.targets_BT)

    def loss(nats):
        read = lambda rows: nats["template" if rows is template else "answer"]  # noqa: E731
        return METHODS[name].losses(read, batch, Settings(total_variation)).sum()

    by = jax.jit(jax.grad(loss))(on_device(nats))
    kept, other = answer.weights_BT > 0, template.weights_BT > 0
    if name == "random_label":  # here the drawn labels are the answer's own
        assert np.all(by["answer"][kept] > 0)
    elif name == "template":
        assert np.all(by["template"][other] > 0)
    else:
        assert np.all(by["answer"][kept] < 0)
        assert np.all(by["template"][other] >= 0)
    assert np.all(by["answer"][~kept] == 0) and np.all(by["template"][~other] == 0)


def test_padding_has_no_log_probability(tmp_path):
    [found] = read(tmp_path, {"prompt": "Q:", "answer": "ab"})
    batch = encode_answers([found], length=16, eos=256).as_batch()
    nats = jnp.where(batch.weights_BT > 0, 1.5, jnp.nan)
    assert log_probability(nats, batch) == -3.0


def test_a_tenth_is_taught_and_the_others_are_measured(tmp_path):
    lines = [{"prompt": f"{i}:", "answer": "a"} for i in range(21)]
    rows = encode_answers(read(tmp_path, *lines), length=16, eos=256)
    taught, others = split_tenth(rows, seed=0)
    assert len(taught) == 3 and len(others) == 18
    both = {tuple(row) for part in (taught, others) for row in part.tokens_ET}
    assert len(both) == 21
    one = rows.take([0])
    assert [len(part) for part in split_tenth(one, seed=0)] == [1, 1]
    curve = Relearning([0, 1, 2], [0.1, 0.4, 0.6])
    assert curve.steps_to(0.5) == 2 and curve.steps_to(0.7) is None
