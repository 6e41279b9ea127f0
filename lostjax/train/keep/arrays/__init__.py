"""Arrays on disk, written and read by orbax."""
