"""The model and the texts that a command names: the embedded ones, the hub's, or files."""

import inspect
from pathlib import Path
from typing import Any

import torch
from sae_lens.load_model import load_model

from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.embedded import embedded_texts, load_embedded_model

EMBEDDED_MODEL = "embedded"
EMBEDDED_PREFIX = "embedded:"


def load_language_model(name: str, class_name: str, device: str) -> Any | None:
    """Load the embedded model if it is named; None leaves the loading to SAELens.

    Args:
        name: "embedded", or a name of the hub's.
        class_name: "HookedTransformer", or "TransformerBridge" (embedded model only).
        device: Where to put it.

    Raises:
        CommandError: The model does not come as that class.
    """
    if name != EMBEDDED_MODEL:
        if class_name == "TransformerBridge":
            raise CommandError(
                f"The model class TransformerBridge serves the embedded model, not {name!r}: SAELens loads the hub's models "
                "as HookedTransformer or AutoModelForCausalLM. Choose one of these."
            )
        return None
    if class_name not in ("TransformerBridge", "HookedTransformer"):
        raise CommandError(
            f"The embedded model comes as HookedTransformer or TransformerBridge, not as {class_name}. Choose one of these."
        )
    return load_embedded_model("bridge" if class_name == "TransformerBridge" else "hooked", device=device)


def default_model_class(name: str) -> str:
    """The class a model is loaded as if the user names none."""
    return "TransformerBridge" if name == EMBEDDED_MODEL else "HookedTransformer"


def load_any_language_model(name: str, class_name: str, device: str) -> Any:
    """Load a language model, the embedded one or one of the hub's by SAELens' loader."""
    return load_language_model(name, class_name, device) or load_model(class_name, name, device=device)


def load_dataset(name: str) -> Any:
    """Load the training split of an embedded text as a data set; None leaves the loading to SAELens."""
    if not name.startswith(EMBEDDED_PREFIX):
        return None
    return embedded_texts(name.removeprefix(EMBEDDED_PREFIX), split="train").to_dataset()


def load_documents(name: str) -> list[str]:
    """Load all documents of a text: an embedded one, a JSON-lines or text file, or a data set of the hub's.

    Raises:
        CommandError: The data set has no column "text" or no documents.
    """
    if name.startswith(EMBEDDED_PREFIX):
        return list(embedded_texts(name.removeprefix(EMBEDDED_PREFIX)))
    import datasets

    kinds = {".jsonl": "json", ".json": "json", ".txt": "text", ".parquet": "parquet", ".csv": "csv"}
    kind = kinds.get(Path(name).suffix)
    if kind is not None and Path(name).is_file():
        dataset = datasets.load_dataset(kind, data_files=name, split="train")
    else:
        dataset = datasets.load_dataset(name, split="train")
    if "text" not in dataset.column_names or len(dataset) == 0:
        raise CommandError(
            f"The data set {name!r} has {len(dataset)} rows and the columns {dataset.column_names}, but documents are "
            'read from a column "text". Rename the column or choose another data set.'
        )
    return list(dataset["text"])


@torch.no_grad()
def hook_width(model: Any, hook_name: str, hook_head_index: int | None = None) -> int:
    """Find the width of the activations at a hook, by one forward pass over one token.

    Raises:
        CommandError: The model has no such hook.
    """
    takes_bos = "prepend_bos" in inspect.signature(model.forward).parameters
    token = torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device)
    _, cache = model.run_with_cache(
        token, names_filter=[hook_name], **({"prepend_bos": False} if takes_bos else {})
    )
    if hook_name not in cache:
        raise CommandError(
            f"The model has no hook {hook_name!r}. HookedTransformer calls the residual stream after layer 10 "
            "'blocks.10.hook_resid_post', TransformerBridge 'blocks.10.hook_out'."
        )
    activations = cache[hook_name][0, 0]
    return activations.shape[-1] if hook_head_index is not None else activations.numel()


def require_width(model: Any, hook_name: str, hook_head_index: int | None, d_in: int) -> None:
    """Raise CommandError unless the activations at the hook have width `d_in`."""
    width = hook_width(model, hook_name, hook_head_index)
    if width != d_in:
        raise CommandError(
            f"The activations at {hook_name!r} have width {width}, but the SAE has d_in = {d_in}. Set --d_in {width}."
        )
