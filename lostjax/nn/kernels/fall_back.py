"""What is said where a kernel cannot be had: once, with the reason."""

import functools
import logging


@functools.cache
def log_once(message: str) -> None:
    """Log a warning the first time that it is given."""
    logging.getLogger(__name__).warning(message)
