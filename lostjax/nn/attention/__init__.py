"""Causal self-attention, and a blocked implementation for CPUs."""
