"""What silencing stable and unstable latents costs."""

from sae_lens_ext.analysis.stability.masking.curve import masking_curve
from sae_lens_ext.analysis.stability.masking.result import MaskingCurve

__all__ = ["MaskingCurve", "masking_curve"]
