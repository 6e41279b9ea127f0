"""FRUGAL: split each gradient into a part with optimiser state and a rest without."""
