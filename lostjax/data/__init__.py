"""Text, tokens and batches: `batch_at(step)` is a pure function.

The room needs `pip install 'lostjax[train]'`.
"""

from lostjax.extras import explain_missing

if reason := explain_missing():
    raise ModuleNotFoundError(f"lostjax.data {reason}")

from lostjax.data.episodes import Episode, draw_episode
from lostjax.data.epochs import epoch_rows
from lostjax.data.prepare import Data, prepare_data
from lostjax.data.rows.batches import BatchPlan, EvalPlan
from lostjax.data.rows.packing import pack_documents
from lostjax.data.rows.stream import Rows
from lostjax.data.samples.classes import Samples, Split, split_samples
from lostjax.data.samples.glyphs import load_glyphs
from lostjax.data.samples.human_labels import HumanLabels, load_human_labels
from lostjax.data.samples.images import load_digits, load_fashion_mnist, load_mnist
from lostjax.data.samples.label_noise import (
    confuse_labels,
    estimate_confusion,
    symmetric_confusion,
)
from lostjax.data.samples.lifetimes import (
    LEAKS,
    Lifetimes,
    encode_lifetimes,
    load_scikit_survival,
    load_survset,
)
from lostjax.data.samples.openmoji import Pictograms, load_openmoji
from lostjax.data.samples.tagged_text import TaggedText, load_brown, load_tweets
from lostjax.data.text.corpus import Corpus, open_corpus
from lostjax.data.text.token_files import TokenFiles
from lostjax.data.tokenizers.tokenizer import (
    Tokenizer,
    count_tokens,
    load_saved_tokenizer,
    load_tokenizer,
    save_tokenizer,
)
from lostjax.errors import DataError
from lostjax.typing import Batch

__all__ = [
    "Batch",
    "BatchPlan",
    "Corpus",
    "Data",
    "DataError",
    "Episode",
    "EvalPlan",
    "HumanLabels",
    "LEAKS",
    "Lifetimes",
    "Pictograms",
    "Rows",
    "Samples",
    "Split",
    "TaggedText",
    "TokenFiles",
    "Tokenizer",
    "confuse_labels",
    "count_tokens",
    "draw_episode",
    "encode_lifetimes",
    "epoch_rows",
    "estimate_confusion",
    "load_brown",
    "load_digits",
    "load_fashion_mnist",
    "load_glyphs",
    "load_human_labels",
    "load_mnist",
    "load_openmoji",
    "load_saved_tokenizer",
    "load_scikit_survival",
    "load_survset",
    "load_tweets",
    "load_tokenizer",
    "open_corpus",
    "pack_documents",
    "prepare_data",
    "save_tokenizer",
    "split_samples",
    "symmetric_confusion",
]
