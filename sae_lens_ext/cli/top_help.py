"""What `sae-lens-ext --help` shows: the verbs by group, a line each, as their own modules describe them."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import override

_NAME_COLUMNS = 18


class TopParser(argparse.ArgumentParser):
    """The parser of the whole command, whose help is its table of contents.

    Args:
        groups: Modules of verbs by heading; each has `add_parsers(verbs)`.
        **settings: Of an `ArgumentParser`; `epilog` follows the verbs.
    """

    def __init__(self, groups: Mapping[str, Sequence[Any]], **settings: Any) -> None:
        super().__init__(**settings, usage=f"{settings['prog']} VERB ...")
        verbs = self.add_subparsers(
            dest="verb",
            metavar="VERB",
            required=True,
            prog=settings["prog"],
            parser_class=argparse.ArgumentParser,
        )
        self.verbs = verbs.choices
        self._groups: dict[str, list[Any]] = {}
        for heading, modules in groups.items():
            before = len(verbs._choices_actions)
            for module in modules:
                module.add_parsers(verbs)
            self._groups[heading] = verbs._choices_actions[before:]

    @override
    def format_help(self) -> str:
        parts = [self.format_usage() + "\n" + (self.description or "")]
        for heading, lines in self._groups.items():
            parts.append(
                "\n".join([heading, *(f"  {line.dest:<{_NAME_COLUMNS}}{line.help}" for line in lines)])
            )
        return "\n\n".join([*parts, self.epilog or ""])
