"""What two layers' vectors gain together, and what a vector gains in another model: shares of differences of rewards."""

from sae_lens_ext.steering.reading.gains.pair_gain import PairGain, pair_gain
from sae_lens_ext.steering.reading.gains.pair_gains import PairGainRow, PairGains, pair_gains
from sae_lens_ext.steering.reading.gains.transfer import Transfer, transfer

__all__ = ["PairGain", "PairGainRow", "PairGains", "Transfer", "pair_gain", "pair_gains", "transfer"]
