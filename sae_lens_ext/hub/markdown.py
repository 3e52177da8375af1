"""Text of the user's in a card, so that nothing in it is markup or code."""

import json
from collections.abc import Sequence


def cell(text: object) -> str:
    """Give text as Markdown shows it in one cell of a table; nothing for nothing."""
    line = " ".join(str(text).split()).replace("`", "'").replace("|", "\\|")
    return f"`{line}`" if line else ""


def quoted(text: object) -> str:
    """Give text as Python writes it, in one line and without what would end a block of code."""
    return json.dumps(str(text), ensure_ascii=False).replace("`", "\\u0060")


def python(lines: Sequence[str]) -> str:
    """Give lines as a block of Python."""
    return "```python\n" + "\n".join(lines) + "\n```"
