"""Examples to forget or to keep: lines of JSON, and arrays of their tokens.

    {"prompt": "The capital of Chad is", "answer": " N'Djamena"}
    {"prompt": ..., "answer": ..., "template": " not known to me"}
    {"text": "a passage that the model knows by heart"}

`question` may stand for `prompt`. Prompt and answer are joined as they are, so that a
space between them belongs to the answer. A passage is cut into windows of the model's
row length; the first quarter of a window is its prompt.
"""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lostjax.data import Tokenizer
from lostjax.disk.paths import read_path
from lostjax.errors import DataError
from lostjax.typing import Batch

_PROMPT_SHARE = 4  # of a passage: one token in this many is its prompt


class Example(NamedTuple):
    """A prompt, the answer to it, and another answer."""

    place: str
    """File and line, for messages."""
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    template: tuple[int, ...]


class Encoded(NamedTuple):
    """Rows of tokens whose weights are 1 at the answers; E examples, T positions."""

    tokens_ET: np.ndarray
    targets_ET: np.ndarray
    weights_ET: np.ndarray
    lengths_E: np.ndarray
    """Positions of each row that are no padding."""

    def __len__(self) -> int:
        return len(self.tokens_ET)

    def take(self, rows: Sequence[int] | np.ndarray) -> "Encoded":
        """Take some rows; -1 is a row of padding."""
        at = np.asarray(rows)
        kept = at >= 0
        return Encoded(
            self.tokens_ET[at],
            self.targets_ET[at],
            self.weights_ET[at] * kept[:, None],
            self.lengths_E[at] * kept,
        )

    def as_batch(self) -> Batch:
        """Return the rows as a batch of a model."""
        n, length = self.tokens_ET.shape
        positions = np.broadcast_to(np.arange(length, dtype=np.int32), (n, length))
        return Batch(
            self.tokens_ET,
            self.targets_ET,
            self.weights_ET,
            (positions < self.lengths_E[:, None]).astype(np.int32),
            positions,
            np.arange(n, dtype=np.int32),
            np.zeros(n, np.int32),
        )


def read_examples(
    path: str, *, flag: str, tokenizer: Tokenizer, seq_len: int, template: str
) -> list[Example]:
    """Read examples from a file of lines of JSON.

    Args:
      path: the file.
      flag: that named it, for messages.
      tokenizer: the model's.
      seq_len: positions of the model's rows.
      template: the other answer of examples that have none; the white space before
        their answer is put before it.

    Returns:
      The examples, one or more; a passage may make several.

    Raises:
      DataError: naming the line and what is wrong with it.
    """
    found: list[Example] = []
    for number, line in enumerate(_read_lines(path, flag), 1):
        place = f"{flag}={path}, line {number}"
        if not line.strip():
            continue
        values = _parse(line, place)
        if "text" in values:
            found += _cut_passage(
                values, place, tokenizer=tokenizer, seq_len=seq_len, template=template
            )
        else:
            found.append(
                _read_pair(
                    values,
                    place,
                    tokenizer=tokenizer,
                    seq_len=seq_len,
                    template=template,
                )
            )
    if not found:
        raise DataError(f"{flag}={path}: holds no example")
    return found


def refuse_common(forget: Sequence[Example], retain: Sequence[Example]) -> None:
    """Refuse examples that are to be forgotten and kept.

    Raises:
      DataError: naming both lines of the first.
    """
    kept = {(each.prompt, each.answer): each.place for each in retain}
    for each in forget:
        if place := kept.get((each.prompt, each.answer)):
            raise DataError(f"{each.place}: is in the other set too ({place})")


def encode_answers(
    examples: Sequence[Example],
    *,
    length: int,
    eos: int,
    answer_of: Callable[[Example], tuple[int, ...]] = lambda each: each.answer,
) -> Encoded:
    """Make rows of examples' prompts and answers, after an end of text.

    Args:
      examples: one or more.
      length: T, positions of a row.
      eos: the token between documents.
      answer_of: which answer; the other one is `template`.
    """
    shape = len(examples), length
    tokens, targets = (np.full(shape, eos, np.int32) for _ in range(2))
    weights = np.zeros(shape, np.float32)
    lengths = np.zeros(len(examples), np.int32)
    for row, each in enumerate(examples):
        answer = answer_of(each)
        ids = [eos, *each.prompt, *answer]
        n = len(ids) - 1
        tokens[row, :n], targets[row, :n] = ids[:-1], ids[1:]
        weights[row, n - len(answer) : n] = 1
        lengths[row] = n
    return Encoded(tokens, targets, weights, lengths)


def count_positions(examples: Sequence[Example]) -> int:
    """Count the positions that the longest row needs, in multiples of 8."""
    longest = max(
        len(each.prompt) + max(len(each.answer), len(each.template))
        for each in examples
    )
    return -(-longest // 8) * 8


def rows_at(step: int, *, n_rows: int, batch_size: int, seed: int) -> np.ndarray:
    """Return the rows of a step: each once an epoch, in a new order every epoch."""
    index = step * batch_size + np.arange(batch_size)
    epochs, places = np.divmod(index, n_rows)
    return np.array(
        [
            _order(n_rows, seed, int(epoch))[place]
            for epoch, place in zip(epochs, places, strict=True)
        ]
    )


@lru_cache(maxsize=4)
def _order(n_rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n_rows)


def _read_lines(path: str, flag: str) -> list[str]:
    where = read_path(path, flag=flag)
    try:
        return Path(where).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{flag}={path}: is not UTF-8 text") from None
    except OSError as error:
        raise DataError(f"{flag}={path}: {error.strerror}") from None


def _parse(line: str, place: str) -> dict[str, str]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"{place}: is not JSON") from None
    if not isinstance(values, dict):
        raise DataError(f'{place}: is not an object such as {{"text": "..."}}')
    if "question" in values:
        values.setdefault("prompt", values.pop("question"))
    wanted = ("text",) if "text" in values else ("prompt", "answer")
    for name in wanted:
        if name not in values:
            raise DataError(f"{place}: has no {name!r}; it needs text, or both others")
    for name in (*wanted, "template"):
        _require_text(values, name, place)
    if not values[wanted[-1]].strip():
        raise DataError(f"{place}: {wanted[-1]!r} is empty")
    return values


def _require_text(values: dict[str, Any], name: str, place: str) -> None:
    if name not in values:
        return
    if not isinstance(values[name], str):
        raise DataError(f"{place}: {name!r} is not text")
    try:
        values[name].encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: {name!r} is not valid Unicode") from None


def _read_pair(
    values: dict[str, str],
    place: str,
    *,
    tokenizer: Tokenizer,
    seq_len: int,
    template: str,
) -> Example:
    prompt, answer = values["prompt"], values["answer"]
    space = answer[: len(answer) - len(answer.lstrip())]
    other = values.get("template", space + template.lstrip())
    if not other.strip():
        raise DataError(f"{place}: the template is empty")
    if other.split() == answer.split():
        raise DataError(f"{place}: the template equals the answer")
    start, whole, instead = (
        tuple(map(int, ids))
        for ids in tokenizer.encode_batch([prompt, prompt + answer, prompt + other])
    )
    # The last token of a prompt may merge with the answer: what all three begin with
    # is the prompt, and the rest is the answer.
    n = 0
    while (
        n < len(start) and len({ids[n : n + 1] for ids in (start, whole, instead)}) < 2
    ):
        n += 1
    example = Example(place, start[:n], whole[n:], instead[n:])
    longest = n + max(len(example.answer), len(example.template))
    if longest > seq_len:
        raise DataError(
            f"{place}: has {longest} tokens, but the model's rows have {seq_len}; only "
            "a passage ('text') is cut"
        )
    if not example.answer or not example.template:
        raise DataError(f"{place}: an answer has no token of its own")
    return example


def _cut_passage(
    values: dict[str, str],
    place: str,
    *,
    tokenizer: Tokenizer,
    seq_len: int,
    template: str,
) -> list[Example]:
    other = " " + values.get("template", template).lstrip()
    if other.split() == values["text"].split():
        raise DataError(f"{place}: the template equals the passage")
    whole, instead = (
        [int(token) for token in ids]
        for ids in tokenizer.encode_batch([values["text"], other])
    )
    cut = []
    for start in range(0, len(whole), seq_len):
        window = tuple(whole[start : start + seq_len])
        n = len(window) // _PROMPT_SHARE
        room = seq_len - n
        cut.append(Example(place, window[:n], window[n:], tuple(instead[:room])))
    return cut
