"""Text, tokens and batches: `batch_at(step)` is a pure function."""

from lostjax.data.batches import Batch, BatchPlan, EvalPlan
from lostjax.data.corpus import Corpus, open_corpus
from lostjax.data.epochs import epoch_rows
from lostjax.data.errors import DataError
from lostjax.data.packing import Rows, pack_documents
from lostjax.data.prepare import Data, prepare_data
from lostjax.data.samples import (
    Samples,
    Split,
    load_digits,
    load_fashion_mnist,
    load_mnist,
    split_samples,
)
from lostjax.data.token_files import TokenFiles
from lostjax.data.tokenizer import (
    Tokenizer,
    count_tokens,
    load_saved_tokenizer,
    load_tokenizer,
    save_tokenizer,
)

__all__ = [
    "Batch",
    "BatchPlan",
    "Corpus",
    "Data",
    "DataError",
    "EvalPlan",
    "Rows",
    "Samples",
    "Split",
    "TokenFiles",
    "Tokenizer",
    "count_tokens",
    "epoch_rows",
    "load_digits",
    "load_fashion_mnist",
    "load_mnist",
    "load_saved_tokenizer",
    "load_tokenizer",
    "open_corpus",
    "pack_documents",
    "prepare_data",
    "save_tokenizer",
    "split_samples",
]
