"""`lens`: the tokens that steering vectors, or a feature of an SAE, point to most and least."""

import argparse
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sae_lens_ext.architectures.loading import load_sae
from sae_lens_ext.cli.answer import give, say
from sae_lens_ext.cli.common_flags import add_device, add_hook, add_model
from sae_lens_ext.cli.devices import usable_device
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.named_models import load_named_model
from sae_lens_ext.cli.quiet import quieten
from sae_lens_ext.cli.sources import EMBEDDED_MODEL
from sae_lens_ext.cli.trained_on import hook_of, model_of
from sae_lens_ext.cli.verb_parser import add_verb
from sae_lens_ext.embedded.model import MODEL_NAME
from sae_lens_ext.files import write_whole
from sae_lens_ext.steering import AddFeature
from sae_lens_ext.steering.feature_checks import require_feature
from sae_lens_ext.steering.reading.lens import LogitLensResult, logit_lens
from sae_lens_ext.steering.reading.lens.ranking import MEASURES
from sae_lens_ext.steering.reading.lens.result import SIDES
from sae_lens_ext.steering.reading.lens.shown import LONGEST, shown_token
from sae_lens_ext.steering.training.train import VECTORS_FILE
from sae_lens_ext.steering.vectors import SteeringVectors
from sae_lens_ext.steering.vectors.mlp_output import require_mlp_adds_directly
from sae_lens_ext.steering.vectors.vectors_file import is_steering_vectors

_FROM_BIASES = "SteeringVectors.from_bias_checkpoint"
DESCRIPTION = """\
Read vectors through a model's unembedding W_U (the logit lens).

Prints, for each vector, the tokens that it raises and those that it lowers
most, with their values. Spaces are shown as ·, line ends as ↵. A star marks a
value that 95 % of random vectors stay below; others say no more than chance.

VECTORS is a file that SteeringVectors.save wrote, a folder that train-vectors
wrote, or a checkpoint of biases (mlp.down_proj.bias): a file or a folder.
"""
EXAMPLES = (
    "sae-lens-ext lens my_vectors.safetensors --model embedded",
    "sae-lens-ext lens my_vectors.safetensors --layers 28,29 --top 20 \\\n"
    "    --csv tokens.csv --html tokens.html",
    "sae-lens-ext lens bias_only_checkpoint/ --model Qwen/Qwen2.5-0.5B \\\n    --measure dot --final-norm",
    "sae-lens-ext lens --sae my_sae --feature 1234 --json",
)


def add_parsers(verbs: Any) -> None:
    """Add the verb to the command's parser."""
    parser = add_verb(
        verbs,
        "lens",
        run,
        help="the tokens that steering vectors, or a feature, name",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    read = parser.add_argument_group("what is read")
    read.add_argument("vectors", type=Path, nargs="?", metavar="VECTORS", help="steering vectors")
    read.add_argument("--layers", help="their layers, with commas between, such as 0,5,29 (default: all)")
    read.add_argument(
        "--sae", type=Path, metavar="FOLDER", help="a saved SAE, in place of VECTORS (default: none)"
    )
    read.add_argument(
        "--feature", type=int, metavar="N", help="its feature, from 0: its decoder row (default: none)"
    )
    add_hook(read, "the SAE acts")
    how = parser.add_argument_group("how it is read")
    add_model(how, of="that of the vectors or the SAE", folder=True)
    how.add_argument(
        "--measure",
        choices=MEASURES,
        default="cosine",
        help="cosines with W_U's columns, or dot products (default: %(default)s)",
    )
    how.add_argument(
        "--final-norm", action="store_true", help="multiply the vectors by the gain of the model's final norm"
    )
    add_device(how)
    shown = parser.add_argument_group("what is shown")
    shown.add_argument(
        "--top", type=int, default=10, metavar="N", help="tokens of each side (default: %(default)s)"
    )
    shown.add_argument(
        "--csv", type=Path, metavar="FILE", help="write the table there as well (default: none)"
    )
    shown.add_argument(
        "--html", type=Path, metavar="FILE", help="write an interactive figure there as well (default: none)"
    )


def run(options: argparse.Namespace) -> None:
    """Read and print as the options say."""
    quieten()
    _require_sense(options)
    name, vectors, heading = _of_vectors(options) if options.sae is None else _of_sae(options)
    model = load_named_model(name, options.device)
    if isinstance(vectors, SteeringVectors) and vectors.provenance.get("made_by") == _FROM_BIASES:
        require_mlp_adds_directly("lens", model)
    result = logit_lens(
        model, vectors, measure=options.measure, top_k=options.top, final_norm=options.final_norm
    )
    say(options, heading)
    say(options, "\n".join(_lines(result)))
    if options.csv is not None:
        write_whole(options.csv, result.to_frame().to_csv(index=False))
    if options.html is not None:
        write_whole(options.html, result.plot(options.top).to_html(include_plotlyjs=True))
    files = {"table": options.csv, "figure": options.html}
    given = {name: path for name, path in files.items() if path is not None}
    give(options, {"source": heading, "model": name, **_content(result), "files": given})


def _content(result: LogitLensResult) -> dict[str, Any]:
    """Give the result as JSON has it: for each vector both ends, with the value that 95 % of random vectors stay below."""
    ids = {"top": result.top_ids.tolist(), "bottom": result.bottom_ids.tolist()}
    vectors: list[dict[str, Any]] = []
    for i, (label, layer, norm) in enumerate(zip(result.labels, result.layers, result.norms, strict=True)):
        ends = {
            side: [
                {"token": token, "token_id": token_id, "value": value}
                for token_id, (token, value) in zip(
                    ids[side][i], result.at(side, label, len(ids[side][i])), strict=True
                )
            ]
            for side in SIDES
        }
        random = result.null_of(label)
        vectors.append({"label": label, "layer": layer, "norm": norm, "random_largest": random, **ends})
    return {"measure": result.measure, "reading": result.reading(), "vectors": vectors}


def _require_sense(options: argparse.Namespace) -> None:
    if (options.vectors is None) == (options.sae is None):
        both = "both VECTORS and --sae" if options.sae is not None else "neither VECTORS nor --sae"
        raise CommandError(
            f"lens was given {both}. Give a file of steering vectors, or --sae FOLDER --feature N."
        )
    if (options.feature is None) != (options.sae is None):
        raise CommandError("--sae and --feature go together. Give both, or neither.")
    if options.sae is not None and options.layers is not None:
        raise CommandError("--layers is for steering vectors, but a feature has one layer. Leave it out.")
    if options.sae is None and options.hook is not None:
        raise CommandError("--hook is for an SAE, but steering vectors name their layers. Leave it out.")
    if options.top < 1:
        raise CommandError(f"--top {options.top} shows nothing. Give at least 1.")
    for word, path in (("--csv", options.csv), ("--html", options.html)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            what = "is a folder" if path.is_dir() else f"cannot be written: there is no folder {path.parent}"
            raise CommandError(f"{word} {path} {what}. Give a file in a folder that exists.")


def _of_vectors(options: argparse.Namespace) -> tuple[str, SteeringVectors, str]:
    """Give the model's name, the vectors to read, and what to print first."""
    vectors = _load_vectors(options.vectors)
    if options.layers is not None:
        vectors = vectors.only(*_layers(options.layers))
    known = {options.model} if options.model else set(_model_names(vectors.provenance))
    if len(known) != 1:
        what = (
            f"says that its vectors are of {' and '.join(sorted(known))}"
            if known
            else "does not say which model its vectors are of"
        )
        raise CommandError(f"{options.vectors} {what}. Name the model with --model.")
    (name,) = known
    name = EMBEDDED_MODEL if name == MODEL_NAME else name
    zeros = [layer for layer in vectors if not vectors[layer].any()]
    if len(zeros) == len(vectors):
        raise CommandError(
            f"{options.vectors} holds nothing but zeros in these layers. Give trained vectors."
        )
    heading = f"Steering vectors of {options.vectors}"
    if zeros:
        vectors = vectors.only(*(layer for layer in vectors if layer not in zeros))
        heading += f" (zero, so without tokens: layer{'s' * (len(zeros) > 1)} {', '.join(map(str, zeros))})"
    return name, vectors, heading


def _model_names(provenance: Any) -> Iterator[str]:
    """Give the models that a provenance names, those of a sum's terms too."""
    if isinstance(provenance, Mapping):
        if isinstance(provenance.get("model_name"), str):
            yield provenance["model_name"]
        provenance = list(provenance.values())
    if isinstance(provenance, list):
        for part in provenance:
            yield from _model_names(part)


def _of_sae(options: argparse.Namespace) -> tuple[str, AddFeature, str]:
    sae = load_sae(options.sae, device=usable_device(options.device))
    index = require_feature("lens", sae, options.feature)
    hook = hook_of(sae, options.hook)
    length = float(sae.W_dec[index].detach().float().norm())
    row = AddFeature(sae, index, length, hook_name=hook)
    heading = f"Decoder row of feature {index} of {options.sae} ({sae.cfg.architecture()})"
    return model_of(sae, options.model), row, heading


def _load_vectors(path: Path) -> SteeringVectors:
    """Load steering vectors, of a file or of a folder that train-vectors wrote, or a checkpoint of biases, whichever it is."""
    if not path.exists():
        raise CommandError(
            f"There is no file or folder {str(path)!r}. Give steering vectors, such as train-vectors writes."
        )
    inside = path / VECTORS_FILE
    if is_steering_vectors(inside if inside.is_file() else path):
        return SteeringVectors.load(inside if inside.is_file() else path)
    return SteeringVectors.from_bias_checkpoint(path)


def _layers(text: str) -> list[int]:
    try:
        layers = [int(word) for word in text.split(",")]
        if min(layers) < 0:
            raise ValueError("layers count from 0")
        return layers
    except ValueError as error:
        raise CommandError(
            f"--layers {text!r} is no list of layers. Give whole numbers from 0 with commas between, such as 0,5,29."
        ) from error


def _lines(result: LogitLensResult) -> Iterator[str]:
    """Give what is printed: how it was read, and a table for each vector, both ends beside each other."""
    name = result.provenance.get("model_name") or "this model"
    yield f"The {result.n_tokens:,} tokens of {name} by {result.reading()}"
    if result.measure == "cosine":
        null = f"{result.random_largest:.3f}, as one in twenty random vectors does"
    else:
        null = "what all but one in twenty random vectors of the same length stay below"
    yield f"Left what is raised most, right what is lowered most; * exceeds {null}"
    number = "{:.3f}" if result.measure == "cosine" else "{:#.4g}"
    n = result.top_ids.shape[1]
    ends = [
        (label, norm, result.at("top", label, n), result.at("bottom", label, n))
        for label, norm in zip(result.labels, result.norms, strict=True)
    ]
    shown = [shown_token(token) for _, _, *both in ends for end in both for token, _ in end]
    width = min(LONGEST, max(map(_width, shown)))
    for label, norm, top, bottom in ends:
        null = result.null_of(label)
        yield f"\n{label}   ‖x‖ = {norm:.4g}"
        for rank, (high, low) in enumerate(zip(top, bottom, strict=True), start=1):
            cells = [
                f"{_padded(shown_token(token), width)} {number.format(value):>9}{' *' if abs(value) > null else '  '}"
                for token, value in (high, low)
            ]
            yield f"{rank:>5}  {'     '.join(cells)}".rstrip()


def _padded(text: str, width: int) -> str:
    return text + " " * max(0, width - _width(text))


def _width(text: str) -> int:
    """Give how many columns of a terminal a text takes."""
    wide = sum(unicodedata.east_asian_width(one) in "WF" for one in text)
    return len(text) + wide - sum(unicodedata.category(one) in ("Mn", "Me") for one in text)
