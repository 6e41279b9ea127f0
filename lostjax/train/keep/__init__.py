"""Keep a run on disk: its directory, checkpoints and recovery."""
