"""Plan a run: whether it fits some hardware, and what limits its speed."""
