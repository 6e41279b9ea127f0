"""Learning rates by widths, as a table of short runs."""
