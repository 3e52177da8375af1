"""docs/errors.md and docs/errors/ have a row for every message of the package, and none for a message that is gone."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.docs.messages import Message, nodes, package_messages
from tests.docs.pages import DOCS, ENTRY, FOLDER, Row, covers, fixed_parts, n_fixed_letters, pages, rows
from tests.docs.source import modules

MOST_LINES = 400
ENOUGH_LETTERS = 12
"""A pattern that has fewer must have a fifth of the message's, lest "… was given …" stand for everything."""
LEAST_LETTERS = 6


@cache
def _explained() -> dict[Message, tuple[tuple[Row, str], ...]]:
    """The rows of each message, with the pattern that describes it."""
    patterns = [(row, pattern) for row in rows() if not row.is_of_others for pattern in row.patterns]
    longest = {pattern: max(fixed_parts(pattern), key=len, default="") for _, pattern in patterns}
    by_text = {
        text: tuple(
            (row, pattern) for row, pattern in patterns if longest[pattern] in text and _tells(pattern, text)
        )
        for text in {message.text for message in package_messages()}
    }
    return {message: by_text[message.text] for message in package_messages()}


def _tells(pattern: str, text: str) -> bool:
    enough = min(ENOUGH_LETTERS, n_fixed_letters(text) / 5)
    return covers(pattern, text) and n_fixed_letters(pattern) >= enough


def _page_for(missing: Message) -> str:
    """The page with most rows on the messages of the same module, or of the nearest folder around it."""
    folder = Path(missing.module)
    while folder.name:
        found = Counter(
            row.page
            for message, of in _explained().items()
            if Path(message.module) == folder or folder in Path(message.module).parents
            for row, _ in of
            if row.page != ENTRY
        )
        if found:
            return str(found.most_common(1)[0][0].relative_to(DOCS.parent))
        folder = folder.parent
    return "docs/errors/arguments.md"


def test_every_message_has_a_row() -> None:
    missing = [message for message, of in _explained().items() if not of]
    lines = [
        f"{_page_for(message)}: | `{message.text}` | HOW ONE GETS THERE | ARGUMENT OR COMMAND |    ({message.module}:{message.line})"
        for message in missing
    ]
    assert not missing, (
        f"{len(missing)} messages are on none of the errors pages. Add a row for each to the table where it belongs, with `…` for what is filled in; the "
        "message can be cut short where it is already unlike others, and a row can have several messages:\n"
        + "\n".join(lines)
    )


def test_no_row_is_stale() -> None:
    used = {(row, pattern) for of in _explained().values() for row, pattern in of}
    stale = [
        f"{row.place}: `{pattern}`"
        for row in rows()
        if not row.is_of_others
        for pattern in row.patterns
        if (row, pattern) not in used
    ]
    assert not stale, (
        "The package has no such messages any more. Reword these rows as the messages are now, or take them out; if they are SAELens', TransformerLens' or "
        "torch's, mark them (*SAELens*):\n" + "\n".join(stale)
    )


def test_every_row_has_a_message_a_cause_and_a_remedy() -> None:
    broken = [row.place for row in rows() if len(row.cells) != 3 or not all(row.cells) or not row.patterns]
    assert not broken, f"Fill the three cells | `message` | cause | do | of {', '.join(broken)}."
    vague = [
        f"{row.place}: `{p}`" for row in rows() for p in row.patterns if n_fixed_letters(p) < LEAST_LETTERS
    ]
    assert not vague, "Give more of the message, so that it can be found:\n" + "\n".join(vague)


def test_no_page_has_a_message_twice() -> None:
    counts = Counter((row.page, pattern) for row in rows() for pattern in row.patterns)
    twice = [
        f"{page.relative_to(DOCS.parent)}: `{pattern}`" for (page, pattern), n in counts.items() if n > 1
    ]
    assert not twice, "Make one row of those that have the same message:\n" + "\n".join(twice)


def test_pages_are_short_and_the_entry_names_each() -> None:
    entry = ENTRY.read_text(encoding="utf-8")
    for page in pages():
        assert len(page.read_text(encoding="utf-8").splitlines()) <= MOST_LINES, page
        assert page == ENTRY or f"(errors/{page.name})" in entry, f"docs/errors.md does not name {page.name}."


def test_links_of_the_pages_lead_somewhere() -> None:
    for page in pages():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there."


@pytest.mark.parametrize(
    ("module", "beginning"),
    [
        ("number_checks.py", "… was given seed = …"),  # an f-string
        (
            "lime/routing_sites.py",
            "LIMe cannot be attached to this …: it is spread over",
        ),  # a function that gives the error
        (
            "embedded/packages.py",
            "The distribution …, which the embedded model and texts need, is incomplete",
        ),
        (
            "analysis/result_files.py",
            "… is not a … that this version can read, sae_lens_ext.MaskingCurve/1",
        ),  # a caller's text
        ("files.py", "… could not be written (…), and is as it was before"),  # after an error number
        ("run_log.py", "… has lost the lines of … steps before step"),  # a warning
        (
            "saved.py",
            "… holds other bytes than were saved, or has lost a file. Go on",
        ),  # noted of a damaged file
        ("cli/app.py", "… was started in … processes"),  # the parser's
    ],
)
def test_messages_are_found_however_they_are_made(module: str, beginning: str) -> None:
    found = [message.text for message in package_messages() if message.module == f"sae_lens_ext/{module}"]
    assert any(text.startswith(beginning) for text in found), found


def test_every_error_that_is_made_and_raised_at_once_has_a_message() -> None:
    found = {(message.module, message.line) for message in package_messages()}
    for module in modules().values():
        for _, node in nodes(module):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                of_another = ast.unparse(node.exc.args[0]) in ("str(error)", "main()")
                assert of_another or (module.name, node.lineno) in found, f"{module.name}:{node.lineno}"


def test_a_row_describes_a_message_by_its_fixed_parts_in_their_order() -> None:
    message = "… was given k = …. Give a whole number from 1 to …, the number of latents."
    assert covers("… was given k = …. Give a whole number", message)
    assert covers("… was given … = …. Give … the number of latents", message)
    assert not covers("Give a whole number … was given k", message)
    assert not covers("top_k was given k", message)
    assert not _tells(
        "… was given …",
        "… was given a model of one layer, which has no block after a layer for the vector to enter.",
    )
    assert FOLDER.is_dir()
