"""Scaling laws of runs: read from directories and tables, fitted, shown on a page."""
