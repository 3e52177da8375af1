"""Flags of ours among those that SAELens' parser reads."""

from collections.abc import Mapping, Sequence

from sae_lens_ext.cli.errors import CommandError


def take_flag(words: Sequence[str], flag: str, example: str) -> tuple[list[str], str | None]:
    """Give the words without a flag and its value, and the value, or None.

    Args:
        words: A command line.
        flag: The flag, with underscores.
        example: What its value may be, for messages.

    Raises:
        CommandError: The flag is given twice, or without its value.
    """
    left: list[str] = []
    found: list[str] = []
    rest = iter(words)
    for word in rest:
        if flag_of(word) != flag:
            left.append(word)
            continue
        value = word.partition("=")[2] if "=" in word else next(rest, "")
        if not value or value.startswith("--"):
            raise CommandError(f"{flag} has no value. Give {example}.")
        found.append(value)
    if len(found) > 1:
        raise CommandError(f"{flag} is given {len(found)} times, {' and '.join(found)}. Give it once.")
    return left, found[0] if found else None


def take_switch(words: Sequence[str], flag: str) -> tuple[list[str], bool]:
    """Give the words without a flag that has no value, and whether it was there."""
    left = [word for word in words if word != flag]
    return left, len(left) < len(words)


def renamed(words: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Give the words with some flags renamed, from and to names with underscores and without `--`."""
    found: list[str] = []
    for word in words:
        name = flag_of(word).removeprefix("--")
        is_known = word.startswith("--") and name in names
        found.append("=".join([f"--{names[name]}", *word.split("=", 1)[1:]]) if is_known else word)
    return found


def flag_of(word: str) -> str:
    """The flag of a word, with dashes as SAELens' parser also takes them."""
    name = word.partition("=")[0]
    return f"--{name.removeprefix('--').replace('-', '_')}" if name.startswith("--") else name
