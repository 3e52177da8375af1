"""`quickstart`: train six SAEs in one pass over a text, load them by name, measure them, draw the curve."""

from sae_lens_ext.cli.quickstart.verb import add_parsers

__all__ = ["add_parsers"]
