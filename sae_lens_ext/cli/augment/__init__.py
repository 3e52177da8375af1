"""`augment`: teach a pretrained SAE the domains of some texts, and report what that gave and what it cost."""

from sae_lens_ext.cli.augment.verb import add_parsers

__all__ = ["add_parsers"]
