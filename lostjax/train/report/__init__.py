"""The report of a finished run, as one HTML page."""
