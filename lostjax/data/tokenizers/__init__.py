"""Tokenizers: byte-level BPE, bytes, SentencePiece."""
