"""Cells of a claim: those of `lostjax.train.cells`, which sweeps keep as well."""

from lostjax.train.cells import Cell, Measure, run_cell, slug

__all__ = ["Cell", "Measure", "run_cell", "slug"]
