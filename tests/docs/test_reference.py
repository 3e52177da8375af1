import re
from collections import Counter
from pathlib import Path

import sae_lens_ext
from sae_lens_ext import ops

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"


def documented(pattern):
    pages = "\n".join(page.read_text() for page in REFERENCE.glob("*.md"))
    return Counter(re.findall(pattern, pages, re.MULTILINE))


def test_reference_has_every_public_name_once():
    names = documented(r"^::: sae_lens_ext\.(\w+)$")
    assert set(names) == set(sae_lens_ext.__all__)
    assert max(names.values()) == 1


def test_reference_has_every_operation_once():
    assert documented(r"^::: sae_lens_ext\.ops\.(\w+)$") == Counter(ops.__all__)
