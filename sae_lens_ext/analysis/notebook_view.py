"""How a result shows itself in a notebook: its three lines, and a table."""

from html import escape


def notebook_view(result: object, table: str) -> str:
    """Give HTML of a result.

    Args:
        result: The result; its `repr` is shown as text.
        table: An HTML table, such as `DataFrame.to_html` gives.
    """
    return f"<p>{'<br>'.join(escape(repr(result)).splitlines())}</p>{table}"
