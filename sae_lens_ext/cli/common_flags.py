"""Flags that several verbs have: one name, one meaning and one wording everywhere."""

from typing import Any

from sae_lens_ext.cli.verb_parser import add_flag

MODEL_CLASSES = ("TransformerBridge", "HookedTransformer", "AutoModelForCausalLM")
TEXT = "embedded:NAME, a file, a folder or a data set of the hub's"


def add_model(container: Any, *, default: str | None = None, of: str = "", folder: bool = False) -> None:
    """Add `--model`.

    Args:
        container: The parser, or a group of it.
        default: The model where none is named; None if something else says which.
        of: What says it then, such as "the SAE's".
        folder: Whether a folder of Hugging Face's format is taken, too.
    """
    kinds = "embedded, a folder that save_pretrained wrote," if folder else "embedded,"
    container.add_argument(
        "--model", default=default, help=f"{kinds} or a model of the hub's (default: {default or of})"
    )


def add_model_class(container: Any, default: str) -> None:
    """Add `--model-class`; `default` says which it is where none is named."""
    container.add_argument(
        "--model-class",
        choices=MODEL_CLASSES,
        metavar="CLASS",
        help=f"as what the model is loaded: {', '.join(MODEL_CLASSES)} (default: {default})",
    )


def add_hook(container: Any, what: str, default: str | None = None) -> None:
    """Add `--hook`; `what` says what happens there."""
    container.add_argument(
        "--hook",
        default=default,
        help=f"where {what} (default: {default or 'what the metadata of the SAE say'})",
    )


def add_text(container: Any, what: str = "", *, old: str | None = None, **settings: Any) -> None:
    """Add `--text`; `what` goes on from the kinds of text there are, `old` is a name it once had."""
    settings = {"metavar": "TEXT", "help": f"{TEXT}{what}", **settings}
    if old is None:
        container.add_argument("--text", **settings)
    else:
        add_flag(container, "--text", old=old, **settings)


def add_device(container: Any) -> None:
    """Add `--device`."""
    container.add_argument(
        "--device", default="cpu", help="cpu, cuda, or one of several as cuda:1 (default: cpu)"
    )


def add_seed(container: Any, what: str) -> None:
    """Add `--seed`; `what` names what it decides."""
    container.add_argument(
        "--seed", type=int, default=0, metavar="N", help=f"whole number that decides {what} (default: 0)"
    )


def add_context_size(container: Any, default: int | None = 128, said: str = "128") -> None:
    """Add `--context-size`; `said` is what help says of the default."""
    container.add_argument(
        "--context-size",
        type=int,
        default=default,
        metavar="N",
        help=f"tokens of a sequence (default: {said})",
    )


def add_autocast(container: Any) -> None:
    """Add `--autocast`."""
    container.add_argument(
        "--autocast",
        action="store_true",
        help="run the model in bfloat16, which is faster (default: as it is loaded)",
    )


def add_tiny(container: Any) -> None:
    """Add `--tiny`."""
    container.add_argument(
        "--tiny", action="store_true", help="a run of a minute that shows the way, not the numbers"
    )
