"""`train-lime`: give a pretrained model Layer-Integrated Memory, train its routers, and see what they gain on held-out text."""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from sae_lens_ext.analysis.result_files import save_result
from sae_lens_ext.analysis.texts import special_tokens
from sae_lens_ext.cli.answer import give, say
from sae_lens_ext.cli.common_flags import (
    add_autocast,
    add_context_size,
    add_device,
    add_model,
    add_seed,
    add_text,
)
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.json_content import interval
from sae_lens_ext.cli.named_models import load_named_model
from sae_lens_ext.cli.quiet import quieten
from sae_lens_ext.cli.sources import (
    CHARACTERS_PER_TOKEN,
    HELD_OUT_ONE_IN,
    load_documents,
    split_documents,
)
from sae_lens_ext.cli.verb_parser import add_flag, add_verb
from sae_lens_ext.files import write_whole
from sae_lens_ext.language_model import packed_contexts, require_context_fits
from sae_lens_ext.lime.attach import attach_lime
from sae_lens_ext.lime.reading import router_map
from sae_lens_ext.lime.training import (
    LanguageModelLoss,
    LanguageModelTraining,
    language_model_loss,
    train_language_model,
)
from sae_lens_ext.lime.training.settings import TRAINED, LanguageModelTrainingSettings
from sae_lens_ext.run_folder import RunFolder

ROUTERS_FILE, MAP_FILE = "routers.safetensors", "routers.html"
RESULT_FILE, BEFORE_FILE, AFTER_FILE = "result.json", "held_out_before.json", "held_out_after.json"
TRAINING_FOLDER, CURVE_FILE = "training", "training.html"
FORMAT = "sae_lens_ext.TrainLime/1"
INITIAL = ("identity", "random", "average")
ROUTER_LR, MODEL_LR = 1e-2, 1e-4
SAVED_EVERY = 10
"""Steps between two saved states: a step on a pretrained model takes seconds."""

DESCRIPTION = """\
Let each key-value head of a pretrained model read the keys and values of all
earlier layers by learnt weights (LIMe, arXiv 2502.09245). The weights begin at
the identity, which changes nothing, and are trained on a text.

Prints the loss on the text's held-out tenth before and after, in nats per
token. The folder gets routers.safetensors, routers.html (who reads whom),
result.json, held_out_before.json, held_out_after.json, and training/ with
training.html.

what is trained:
  routers  the routers alone, the model as it is
  all      the routers and the model
  model    the model alone, without routers: the control for `all`

Text that a pretrained model has not seen lowers the loss of whatever is trained
on it: not all of a gain is due to reading earlier layers. An interrupted
command goes on where it was when it is given again.
"""
EXAMPLES = (
    "sae-lens-ext train-lime --text embedded:encyclopedia --autocast \\\n    --out my_routers",
    "sae-lens-ext train-lime --text notes/ --out tuned --trained all --lr 2e-5",
    "sae-lens-ext train-lime --text notes/ --out control --trained model --lr 2e-5",
)


def add_parsers(verbs: Any) -> None:
    """Add the verb to the command's parser."""
    parser = add_verb(
        verbs,
        "train-lime",
        run,
        help="routers over all earlier layers' keys and values",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder for routers, heat map and measurements",
    )
    text = parser.add_argument_group("model and text")
    add_model(text, default="embedded", folder=True)
    add_text(text, required=True)
    add_flag(
        text,
        "--training-tokens",
        old="--tokens",
        type=int,
        default=100_000,
        metavar="N",
        help="tokens to train on, at most (default: %(default)s)",
    )
    text.add_argument(
        "--held-out",
        type=int,
        default=16_384,
        metavar="N",
        help="tokens to measure on, at most (default: %(default)s)",
    )
    add_context_size(text)
    training = parser.add_argument_group("training")
    training.add_argument(
        "--trained", choices=TRAINED, default="routers", help="see above (default: %(default)s)"
    )
    training.add_argument(
        "--initial",
        choices=INITIAL,
        help="routers at the start: the identity; besides it random weights on earlier layers, as the paper for a training from scratch; or the "
        "average of all layers, which is not trained: a control (default: identity)",
    )
    training.add_argument(
        "--batch-size",
        type=int,
        default=8,
        metavar="N",
        help="sequences of an update (default: %(default)s)",
    )
    training.add_argument(
        "--router-lr",
        type=float,
        metavar="LR",
        help=f"learning rate of the routers (default: {ROUTER_LR:g})",
    )
    training.add_argument("--lr", type=float, help=f"learning rate of the model (default: {MODEL_LR:g})")
    running = parser.add_argument_group("how it runs")
    running.add_argument(
        "--micro-batch-size",
        type=int,
        metavar="N",
        help="sequences run at once, for less memory (default: all)",
    )
    add_autocast(running)
    add_device(running)
    add_seed(running, "the text's order and --initial random")


def run(options: argparse.Namespace) -> None:
    """Train and measure as the options say."""
    quieten()
    settings = _settings(options)
    _require_options(options)
    plan = _plan(options, settings)
    folder = RunFolder(options.out, plan, "`sae-lens-ext train-lime`")
    most = CHARACTERS_PER_TOKEN * max(2 * options.training_tokens, HELD_OUT_ONE_IN * options.held_out)
    documents, held_out = split_documents(load_documents(options.text, most))
    if not documents or not held_out:
        raise CommandError(
            f"The text {options.text!r} has too few documents to hold some out: {len(documents) + len(held_out)}. Give it as several documents, such as a "
            "folder of files."
        )
    model = load_named_model(options.model, options.device)
    require_context_fits(model, options.context_size)
    tokens = _packed(model, documents, options.training_tokens, f"The text {options.text!r}", options)
    measured = _packed(model, held_out, options.held_out, f"The held-out tenth of {options.text!r}", options)
    routers = None
    if options.trained != "model":
        routers = attach_lime(model, initial=options.initial or "identity", seed=options.seed)
    try:
        with folder.working():
            if routers is None:
                before = _measured(options.out / BEFORE_FILE, model, measured, options)
            else:
                with routers.paused():
                    before = _measured(options.out / BEFORE_FILE, model, measured, options)
            training = train_language_model(
                model,
                tokens,
                loss_mask=_counted(model, tokens),
                routers=routers,
                checkpoint_every=SAVED_EVERY if options.trained == "routers" else 5 * SAVED_EVERY,
                folder=options.out / TRAINING_FOLDER,
                **settings,
            )
            after = _measured(options.out / AFTER_FILE, model, measured, options)
    except KeyboardInterrupt:
        print(
            "What was trained so far is saved now and then. Give the same command again to go on.",
            file=sys.stderr,
        )
        raise
    except RuntimeError as error:  # a loss that is NaN, which a lower learning rate may mend
        raise CommandError(str(error)) from error
    files = _write(training, routers, options)
    result = _result(before, after, training, plan)
    save_result(files["result"], FORMAT, result)
    say(options, _trained(training, routers, files))
    say(options, _gained(before, after, files["result"]))
    trained = {"steps": len(training.losses), "tokens": int(training.tokens[-1])}
    give(options, {**trained, **result, "files": files})


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Give the settings of `train_language_model`, after it has been asked whether they will do."""
    settings: dict[str, Any] = {
        "trained": options.trained,
        "epochs": 1.0,
        "batch_size": options.batch_size,
        "lr": MODEL_LR if options.lr is None else options.lr,
        "router_lr": ROUTER_LR if options.router_lr is None else options.router_lr,
        "micro_batch_size": options.micro_batch_size,
        "autocast": options.autocast,
        "seed": options.seed,
    }
    unchanged: dict[str, Any] = {
        "max_steps": None,
        "weight_decay": 0.1,
        "warmup": 0.02,
        "final_lr": 0.1,
        "clip": 1.0,
    }
    LanguageModelTrainingSettings(**settings, **unchanged, validate_every=0)
    return settings


def _require_options(options: argparse.Namespace) -> None:
    for flag, value, idle, why in (
        ("--lr", options.lr, options.trained == "routers", "--trained routers leaves the model as it is"),
        (
            "--router-lr",
            options.router_lr,
            options.trained == "model",
            "--trained model trains without routers",
        ),
        ("--initial", options.initial, options.trained == "model", "--trained model trains without routers"),
        (
            "--router-lr",
            options.router_lr,
            options.initial == "average",
            "--initial average is not trained",
        ),
    ):
        if value is not None and idle:
            raise CommandError(f"{flag} {value} would do nothing: {why}. Leave it out.")
    if options.initial == "average" and options.trained == "routers":
        raise CommandError(
            "--initial average is not trained, and --trained routers trains nothing else. Give --trained all, to train the model with it."
        )
    if options.context_size < 2:
        raise CommandError(
            f"--context-size {options.context_size} leaves nothing to predict. Give at least 2."
        )
    for flag, value, least in (
        ("--training-tokens", options.training_tokens, 1),
        ("--held-out", options.held_out, 2),
    ):
        if value < least * options.context_size:
            raise CommandError(
                f"{flag} {value} is less than {least} sequence{'s' * (least > 1)} of {options.context_size} tokens. Give at least "
                f"{least * options.context_size}, or a smaller --context-size."
            )


def _plan(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """Give everything that decides the numbers."""
    return {
        "model": options.model,
        "text": options.text,
        "tokens": options.training_tokens,
        "held_out": options.held_out,
        "context_size": options.context_size,
        **settings,
        "initial": None if options.trained == "model" else options.initial or "identity",
    }


def _packed(
    model: Any, documents: list[str], most: int, what: str, options: argparse.Namespace
) -> torch.Tensor:
    return packed_contexts(
        documents,
        model.tokenizer,
        context_size=options.context_size,
        max_tokens=most,
        seed=options.seed,
        what=what,
    )


def _counted(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Say which predictions count: not those of special tokens, which the packing puts between documents."""
    return ~torch.isin(tokens, special_tokens(model))


def _measured(path: Path, model: Any, tokens: torch.Tensor, options: argparse.Namespace) -> LanguageModelLoss:
    """Measure the loss, unless an earlier run of the command has."""
    if path.exists():
        return LanguageModelLoss.load(path)
    loss = language_model_loss(
        model,
        tokens,
        loss_mask=_counted(model, tokens),
        batch_size=options.micro_batch_size or options.batch_size,
        autocast=options.autocast,
    )
    loss.save(path)
    return loss


def _write(training: LanguageModelTraining, routers: Any, options: argparse.Namespace) -> dict[str, Path]:
    """Write routers and pictures, and say where everything is."""
    out: Path = options.out
    files = {
        "result": out / RESULT_FILE,
        "held_out_before": out / BEFORE_FILE,
        "held_out_after": out / AFTER_FILE,
        "training": out / TRAINING_FOLDER,
        "curve": out / CURVE_FILE,
    }
    write_whole(files["curve"], training.plot().to_html(include_plotlyjs=True))
    if routers is None:
        return files
    files |= {"routers": out / ROUTERS_FILE, "map": out / MAP_FILE}
    routers.save(files["routers"])
    read = router_map(routers, off_diagonal=options.initial in (None, "identity"))
    write_whole(files["map"], read.plot().to_html(include_plotlyjs=True))
    return files


def _trained(training: LanguageModelTraining, routers: Any, files: dict[str, Path]) -> str:
    what = f"{len(training.losses)} steps on {int(training.tokens[-1]):,} tokens"
    if routers is None:
        return f"The model without routers, {what}: {files['training']}, drawn in {files['curve']}"
    return (
        f"Routers of {routers.n_layers} layers, {what}: {files['routers']}\n"
        f"Who reads whom: {files['map']}; the loss in training: {files['curve']}"
    )


def _result(
    before: LanguageModelLoss,
    after: LanguageModelLoss,
    training: LanguageModelTraining,
    plan: dict[str, Any],
) -> dict[str, Any]:
    """Give what was gained, as the result's file has it."""
    return {
        "unit": "nats per token; 95 % intervals over held-out sequences",
        "before": interval(before.interval),
        "after": interval(after.interval),
        "gain": interval(before.minus(after)),
        "perplexity_before": before.perplexity,
        "perplexity_after": after.perplexity,
        "settings": plan,
        "training": dict(training.provenance),
        "held_out": dict(after.provenance),
    }


def _gained(before: LanguageModelLoss, after: LanguageModelLoss, result: Path) -> str:
    return "\n".join(
        (
            f"Loss on {len(before.counts)} held-out sequences, nats per token (95 % intervals over sequences): {result}",
            f"  before  {before.interval}   perplexity {before.perplexity:.2f}",
            f"  after   {after.interval}   perplexity {after.perplexity:.2f}",
            f"  gain    {before.minus(after)}",
        )
    )
