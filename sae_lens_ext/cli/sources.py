"""The model and the texts that a command names: the embedded ones, the hub's, or files."""

import inspect
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sae_lens.load_model import load_model

from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.embedded import embedded_texts, load_embedded_model
from sae_lens_ext.embedded.texts import in_test_split

EMBEDDED_MODEL = "embedded"
EMBEDDED_PREFIX = "embedded:"
HELD_OUT_ONE_IN = 10
"""Of a text's documents, one in so many is held out by `split_documents`."""
CHARACTERS_PER_TOKEN = 8
"""More than a token of any common text has."""
DATA_FILES = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}

logger = logging.getLogger(__name__)


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


def load_any_language_model(
    name: str, class_name: str, device: str, from_pretrained_kwargs: dict[str, Any] | None = None
) -> Any:
    """Load a language model, the embedded one or one of the hub's by SAELens' loader.

    Args:
        name: "embedded", or a name of the hub's.
        class_name: A class that `load_language_model` or SAELens knows.
        device: Where to put it.
        from_pretrained_kwargs: For SAELens' loader, such as an SAE's `metadata.model_from_pretrained_kwargs`.

    Raises:
        CommandError: SAELens knows no such model.
    """
    embedded = load_language_model(name, class_name, device)
    if embedded is not None:
        return embedded
    try:
        return load_model(
            class_name, name, device=device, model_from_pretrained_kwargs=from_pretrained_kwargs
        )
    except ValueError as error:  # TransformerLens names all the models it knows
        reason = str(error).partition(". ")[0].partition("\n")[0].rstrip(".")
        raise CommandError(
            f"SAELens cannot load the model {name!r} as {class_name}: {reason:.300}. Give another with --model, such as embedded, or with --model-class."
        ) from error


def load_dataset(name: str) -> Any:
    """Load the training split of an embedded text as a data set; None leaves the loading to SAELens."""
    if not name.startswith(EMBEDDED_PREFIX):
        return None
    return embedded_texts(name.removeprefix(EMBEDDED_PREFIX), split="train").to_dataset()


def load_documents(name: str, max_characters: int | None = None) -> list[str]:
    """Load the documents of a text.

    Args:
        name: `embedded:NAME`; a file (.jsonl, .json, .csv, .parquet with a column "text", or .txt, a document a line);
            a folder that `datasets` saved or that holds such data files; a folder of text files, each a document;
            or a data set of the hub's.
        max_characters: Read a data set of the hub's only until so many; None for all of it. What is at hand is read whole.

    Raises:
        CommandError: There is no column "text", or there are no documents.
    """
    if name.startswith(EMBEDDED_PREFIX):
        return list(embedded_texts(name.removeprefix(EMBEDDED_PREFIX)))
    import datasets

    if not name.strip() or "\0" in name:
        raise CommandError(
            f"There is no text {name!r}. Give embedded:NAME, a file, a folder, or a data set of the hub's."
        )
    path = Path(name)
    if path.is_file():
        if path.suffix not in DATA_FILES:
            raise CommandError(
                f"The file {name!r} is of a kind that is not read. Give one of {', '.join(DATA_FILES)}, or a folder of "
                "text files."
            )
        dataset = _of_files(name, DATA_FILES[path.suffix], [name])
    elif any((path / mark).is_file() for mark in ("dataset_info.json", "dataset_dict.json")):
        dataset = datasets.load_from_disk(name)
    elif path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        kinds = {DATA_FILES.get(file.suffix, "text") for file in files}
        if len(kinds) != 1 or "text" in kinds or any(file.is_dir() for file in path.iterdir()):
            return _text_files(path)
        dataset = _of_files(name, kinds.pop(), list(map(str, files)))
    elif path.suffix in DATA_FILES or name.startswith((".", "/", "~")):
        raise CommandError(
            f"There is no file or folder {name!r}. Give embedded:NAME, a file, a folder, or a data set of the hub's."
        )
    elif max_characters is not None:
        return _first_documents(name, max_characters)
    else:
        dataset = datasets.load_dataset(name, split="train")
    if isinstance(dataset, datasets.DatasetDict):
        raise CommandError(
            f"{name!r} holds several splits, {', '.join(map(str, dataset))}. Give the folder of one, such as {name}/{next(iter(dataset))}."
        )
    if "text" not in dataset.column_names or len(dataset) == 0:
        raise CommandError(
            f"The data set {name!r} has {len(dataset)} rows and the columns {dataset.column_names}, but documents are "
            'read from a column "text". Rename the column or choose another data set.'
        )
    documents = list(dataset["text"])
    if not all(isinstance(document, str) for document in documents):
        raise CommandError(
            f'The data set {name!r} has rows whose "text" is no text, such as null. Remove these rows.'
        )
    return documents


def _of_files(name: str, kind: str, files: list[str]) -> Any:
    """Read data files; what their parsers raise on broken ones is anything."""
    import datasets

    try:
        return datasets.load_dataset(kind, data_files=files, split="train")
    except Exception as error:
        reason = f"{type(error).__name__} {error.__cause__ or error}".strip().split("\n")[0]
        raise CommandError(
            f"The text {name!r} cannot be read as {kind}: {reason:.200}. It may be empty, truncated or of another kind; give another file."
        ) from error


def _first_documents(name: str, max_characters: int) -> list[str]:
    """Read a data set of the hub's as a stream, document by document, until there are enough characters."""
    import datasets

    documents: list[str] = []
    characters = 0
    for row in datasets.load_dataset(name, split="train", streaming=True):
        if not isinstance(row.get("text"), str):
            raise CommandError(
                f'The data set {name!r} has the columns {list(row)}, but documents are read from a column "text". Choose '
                "another data set."
            )
        documents.append(row["text"])
        characters += len(row["text"])
        if characters >= max_characters:
            break
    return documents


def _text_files(folder: Path) -> list[str]:
    """Read every UTF-8 file below a folder, hidden ones left out; says how many could not be read as text."""
    documents, unreadable = [], []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        try:
            document = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            unreadable.append(path)
            continue
        if document.strip():
            documents.append(document)
    if unreadable:
        logger.warning(
            f"{len(unreadable)} files in {folder} are not UTF-8 text and were left out, such as {unreadable[0].name}."
        )
    if not documents:
        raise CommandError(
            f"The folder {str(folder)!r} holds no text: no UTF-8 file that is not empty, and no data file "
            f"({', '.join(DATA_FILES)}). Give another folder."
        )
    return documents


def split_documents(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split documents into training and held-out ones, as the embedded texts are split: by a hash of the text."""
    training, held_out = [], []
    for document in documents:
        (held_out if in_test_split(document) else training).append(document)
    return training, held_out


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
            "'blocks.10.hook_resid_post', TransformerBridge 'blocks.10.hook_out': give a "
            "name of this model's."
        )
    activations = cache[hook_name][0, 0]
    return activations.shape[-1] if hook_head_index is not None else activations.numel()


def require_width(model: Any, hook_name: str, hook_head_index: int | None, d_in: int, remedy: str) -> None:
    """Raise CommandError unless the activations at the hook have width `d_in`; `remedy` says what to do."""
    width = hook_width(model, hook_name, hook_head_index)
    if width != d_in:
        raise CommandError(
            f"The activations at {hook_name!r} have width {width}, but the SAE has d_in = {d_in}. {remedy}"
        )
