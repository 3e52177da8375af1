"""The model that a command names: the embedded one, a folder of Hugging Face's format, or one of the hub's."""

from pathlib import Path
from typing import Any

from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.sources import default_model_class, load_any_language_model


def load_named_model(name: str, device: str) -> Any:
    """Load a causal language model with its tokenizer, no weight of it folded or centred, in evaluation mode.

    Args:
        name: "embedded"; a folder that `save_pretrained` of transformers wrote, with the tokenizer in it; or a name of the hub's.
        device: Where to put it.

    Returns:
        A TransformerBridge of the embedded model or of a folder, a HookedTransformer of a model of the hub's.

    Raises:
        CommandError: There is no such folder, or there is no model in it.
    """
    _require_device(device)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise CommandError(
                f"The folder {name} holds no model: it has no config.json. Give one that save_pretrained of transformers wrote, with the tokenizer in it."
            )
        from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

        return SAETransformerBridge.boot_transformers(str(path), device=device).eval()
    if name.startswith((".", "/", "~")) or path.exists():
        raise CommandError(
            f"There is no folder of a model at {name}. Give one that save_pretrained of transformers wrote, embedded, or a name of the hub's."
        )
    return load_any_language_model(name, default_model_class(name), device).eval()


def _require_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CommandError(
            f"--device {device} cannot be used here ({str(error).splitlines()[0]}). Give another, such as cpu."
        ) from error
