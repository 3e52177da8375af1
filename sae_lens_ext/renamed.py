"""Arguments that got a better name: the old one goes on working and says what it is called now."""

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed_arguments(**new_names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take keyword arguments by their old names too, with a DeprecationWarning.

    Args:
        new_names: The new name of each argument, by the old one.

    Returns:
        A decorator; the function's signature stays that with the new names.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def accept(*args: P.args, **kwargs: P.kwargs) -> R:
            for old, new in new_names.items():
                if old not in kwargs:
                    continue
                if new in kwargs:
                    raise TypeError(
                        f"{function.__name__} was given both {new} and {old}, which is the old name of {new}. Give {new} alone."
                    )
                warnings.warn(
                    f"The argument {old} of {function.__name__} is called {new} now. Write {new}=, which means the same.",
                    DeprecationWarning,
                    stacklevel=2,
                )
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return accept

    return decorate
