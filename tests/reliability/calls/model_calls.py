"""A public function of the rooms that run or change models, with valid arguments and what each may be instead."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.reliability.calls.attempt import Outcome, attempt
from tests.reliability.calls.material import model
from tests.reliability.calls.wrong_values import VALUES, Kind


@dataclass(frozen=True)
class ModelCall:
    """A function and its arguments."""

    name: str
    """The public name, and after a dot its method."""
    function: Callable[..., Any]
    given: Callable[[], dict[str, Any]]
    """Valid arguments, by name."""
    kinds: Mapping[str, Kind]
    """By argument: the values it may take, of `VALUES`."""
    loops: frozenset[str] = field(default_factory=frozenset)
    """Arguments that say how long it runs, which are not given huge numbers."""

    def cases(self) -> Iterator[tuple[str, str]]:
        """Give every argument and value."""
        for argument in self.kinds:
            for value in VALUES:
                if not (argument in self.loops and value in ("huge", "1e300")):
                    yield argument, value

    def judge(self, argument: str, value: str) -> str | None:
        """Call it with one argument replaced; give what is wrong, or None."""
        outcome = self.outcome({argument: VALUES[value]})
        if outcome.kind == "fault":
            return f"{self.name}, {argument} = {value}: {outcome.what}"
        if outcome.kind == "result" and value not in self.kinds[argument]:
            return f"{self.name}, {argument} = {value}: accepted, and gave {outcome.what!r:.100}"
        return None

    def outcome(self, changed: Mapping[str, Any]) -> Outcome:
        """Call it with some arguments changed."""
        arguments = self.given() | dict(changed)
        return attempt(lambda: self.function(**arguments), model(), *arguments.values())
