"""The command `sae-lens-ext`: one verb a file, each thin over the API."""

from sae_lens_ext.cli.app import main

__all__ = ["main"]
