"""Times to an event, some of them censored."""
