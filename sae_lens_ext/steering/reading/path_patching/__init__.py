"""Through which paths of the next block a steering vector acts: attention, MLP, residual stream, single heads."""

from sae_lens_ext.steering.reading.path_patching.modes import PathMode
from sae_lens_ext.steering.reading.path_patching.path_patching import path_patching
from sae_lens_ext.steering.reading.path_patching.paths import patched_paths
from sae_lens_ext.steering.reading.path_patching.result import PathPatching, PathRow

__all__ = ["PathMode", "PathPatching", "PathRow", "patched_paths", "path_patching"]
