"""The processes of a job that `torchrun` started: who they are, what they tell one another, which of them speaks."""

from sae_lens_ext.ranks.collectives import RankError
from sae_lens_ext.ranks.division import divided, share_of
from sae_lens_ext.ranks.job import Ranks, current_ranks, own_device
from sae_lens_ext.ranks.one_voice import one_voice

__all__ = ["RankError", "Ranks", "current_ranks", "divided", "one_voice", "own_device", "share_of"]
