"""Rows of tokens: packing, order, mixtures, and batches that are pure in the step."""
