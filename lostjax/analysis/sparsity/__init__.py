"""Masks that remove weights, and how many a model can lose."""
