"""Losses that make a model forget."""
