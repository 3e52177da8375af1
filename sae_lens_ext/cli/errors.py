"""What ends a command with a sentence instead of a traceback."""


class CommandError(Exception):
    """The command cannot go on; the message says what was given, what is wrong and what to do."""
