"""Training one SAE several times, so that nothing but its seed differs."""

from sae_lens_ext.analysis.seeds.train import train_seeds

__all__ = ["train_seeds"]
