"""Which tokens a vector of the residual stream speaks for, read through the unembedding: the logit lens (arXiv 2509.06608)."""

from sae_lens_ext.steering.reading.lens.logit_lens import logit_lens
from sae_lens_ext.steering.reading.lens.result import LogitLensResult

__all__ = ["LogitLensResult", "logit_lens"]
