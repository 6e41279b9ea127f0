"""Causal self-attention, and its blocked form for CPUs."""
