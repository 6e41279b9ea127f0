"""Rows of tokens: packing, order, mixtures, batches that are pure in the step."""
