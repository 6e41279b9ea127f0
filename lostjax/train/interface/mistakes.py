"""Mistakes of a user, shown in a notebook without the frames inside of lostjax."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from lostjax.errors import ConfigError, DataError

P = ParamSpec("P")
R = TypeVar("R")


def cut_traceback(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function raise a user's mistake as if it had raised it itself.

    A notebook prints the source around every frame of a traceback. For a wrong name
    that was pages about how names are looked up, above the one line that helps.

    Args:
      function: raises ConfigError or DataError from anywhere.

    Returns:
      The function; the traceback of these errors ends in it.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (ConfigError, DataError) as error:
            raise error.with_traceback(None) from None

    return call
