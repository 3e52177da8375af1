"""Methods of objects replaced for a while, and put back exactly."""

import functools
from collections.abc import Callable
from typing import Any

_ABSENT = object()


class Patches:
    """Methods replaced on single objects, not on their classes."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any, Any]] = []

    def replace(
        self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        """Put `make(method)` in the place of an object's method; the signature stays visible."""
        before = vars(owner).get(name, _ABSENT)
        method = getattr(owner, name)
        wrapper = functools.wraps(method)(make(method))
        self._replaced.append((owner, name, before, wrapper))
        vars(owner)[name] = wrapper

    def undo(self) -> None:
        """Put all methods back, except where somebody else has put another in the place of ours since."""
        while self._replaced:
            owner, name, before, wrapper = self._replaced.pop()
            if vars(owner).get(name) is not wrapper:
                continue
            if before is _ABSENT:
                del vars(owner)[name]
            else:
                vars(owner)[name] = before
