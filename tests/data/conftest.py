"""Property tests of files and tokenizers: their time is the machine's, not theirs."""

from hypothesis import settings

settings.register_profile("data", deadline=None, max_examples=50)
settings.load_profile("data")
