"""One file a paper: its methods, comparisons and measures."""
