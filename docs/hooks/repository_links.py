"""Let the documentation link into the repository, as its pages do on a code host: a hook of mkdocs.

The pages link to `../benchmarks/x.json`, `../examples/x.py` and the like, which lie outside of what mkdocs builds. Each file that is linked
to goes into the site, under `repository/`; a link to a folder becomes its text. README.md and CHANGELOG.md are pages of the site.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = {"index.md": "README.md", "changes.md": "CHANGELOG.md"}
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s:]+)(?P<fragment>#[^)]*)?\)")


def _outside(target: str, page: str) -> Path | None:
    """Give what a link leads to, from the repository's root, if that is not part of the documentation."""
    path = Path(os.path.normpath(DOCS / Path(page).parent / target))
    if path.is_relative_to(DOCS) or not path.is_relative_to(REPOSITORY):
        return None
    return path.relative_to(REPOSITORY)


def _page_of(file: str) -> str:
    """Give a page of the repository's root with the links of a page of the documentation."""
    text = (REPOSITORY / file).read_text()

    def from_docs(match: re.Match[str]) -> str:
        target = match["target"]
        inside = target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}"
        return f"{match['image']}[{match['text']}]({inside}{match['fragment'] or ''})"

    return LINK.sub(from_docs, text)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the repository's root, and every file of the repository that a page links to."""
    for name, file in PAGES.items():
        files.append(File.generated(config, name, content=_page_of(file)))
    wanted: set[Path] = set()
    for page in files.documentation_pages():
        if page.src_uri.endswith(".md"):
            targets = (match["target"] for match in LINK.finditer(page.content_string))
            wanted |= {path for target in targets if (path := _outside(target, page.src_uri))}
    for path in sorted(wanted):
        if (REPOSITORY / path).is_file():
            files.append(File.generated(config, f"repository/{path}", abs_src_path=str(REPOSITORY / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links out of the documentation to the copies in the site.

    Raises:
        FileNotFoundError: A page links to something that is not in the repository.
    """

    def into_site(match: re.Match[str]) -> str:
        path = _outside(match["target"], page.file.src_uri)
        if path is None:
            return match[0]
        if not (REPOSITORY / path).exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to {match['target']}, which is not there.")
        if (REPOSITORY / path).is_dir():
            return match["text"]
        up = "../" * (len(Path(page.file.src_uri).parts) - 1)
        return f"{match['image']}[{match['text']}]({up}repository/{path})"

    return LINK.sub(into_site, markdown)
