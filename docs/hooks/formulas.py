"""Draw formulas as MathML, which browsers show by themselves, so that the site fetches no script: a hook of mkdocs."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(?P<latex>.*?)\\[)\]]</\1>', re.DOTALL)
NOTEBOOK_FORMULA = re.compile(r"(?<!\\)(\$\$|\$)(?P<latex>(?!\s)[^$]+?)(?<!\s)\1")
CODE = re.compile(
    r"(<(?:pre|code|script|style|clipboard-copy)\b.*?</(?:pre|code|script|style|clipboard-copy)>)", re.DOTALL
)


def on_page_content(html_text: str, page: Any, **_: Any) -> str:
    """Turn the formulas of a page into MathML."""

    def formula(match: re.Match[str]) -> str:
        return convert(html.unescape(match["latex"]), display="block" if match[1] == "div" else "inline")

    def formula_of_notebook(match: re.Match[str]) -> str:
        return convert(html.unescape(match["latex"]), display="block" if match[1] == "$$" else "inline")

    if not page.file.src_uri.endswith(".ipynb"):
        return FORMULA.sub(formula, html_text)
    parts = CODE.split(html_text)  # text, code, text, ..., text
    parts[::2] = [NOTEBOOK_FORMULA.sub(formula_of_notebook, part) for part in parts[::2]]
    return "".join(parts)
