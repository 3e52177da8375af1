"""`stability`: which latents of SAEs come back in the others."""

from sae_lens_ext.cli.stability.verb import add_parsers

__all__ = ["add_parsers"]
