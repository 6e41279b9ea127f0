"""Linear maps (dense, low-rank, SLTrain, LOST) and their common interface."""
