"""Small language models trained from scratch on equal tokens, plain, with LIMe, and with a fixed average over layers (arXiv 2502.09245).

One pass over the training documents of the embedded encyclopedia. From one seed all three variants begin with the same weights and see the same batches in
the same order. "average" reads each head's keys and values as the mean over all layers up to its own, untrained: the control that gives nothing in the paper.
The learning rate was chosen on the plain model, by the loss on validation documents. Trainings are kept in benchmarks/.cache, which git ignores; an
interrupted one goes on where it was.

    python benchmarks/lime_language_model.py                                    # trains what is missing, and measures
    python benchmarks/lime_language_model.py --only-train --seeds 0 1           # to split the trainings over processes
    python benchmarks/lime_language_model.py --only-train --variants LIMe
    python benchmarks/lime_language_model.py --tiny                             # some seconds, no numbers of interest
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import plotly.graph_objects as go
import torch
from lime_figures import compared_losses, training_curves
from lime_text import Contexts, contexts, small_tokenizer
from result import write_figure, write_result
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext.bootstrap import Estimate, mean_estimate
from sae_lens_ext.lime import (
    LanguageModelLoss,
    LanguageModelTraining,
    LimeRouters,
    attach_lime,
    language_model_loss,
    router_map,
    train_language_model,
)

PLAIN, LIME, AVERAGE = "plain", "LIMe", "average"
VARIANTS: dict[str, str | None] = {PLAIN: None, LIME: "random", AVERAGE: "average"}
"""What the routers begin with; None for a model without."""
CACHE = Path(__file__).with_name(".cache") / "lime_language_model"


@dataclass(frozen=True)
class Size:
    """What decides the numbers, but for variant and seed."""

    folder: Path = CACHE
    """Where trainings and tokenizer are kept."""
    text: str = "encyclopedia"
    """Name of the embedded text."""
    train_tokens: int = 1_429_376
    """One pass over the training documents, in whole contexts."""
    validation_tokens: int = 16_384
    """Read in each validation."""
    held_out_tokens: int = 105_728
    """Measured on."""
    n_layers: int = 8
    d_model: int = 128
    n_heads: int = 4
    d_vocab: int = 2048
    context: int = 128
    batch_size: int = 16
    lr: float = 3e-3
    """The best of those tried."""
    tried_lrs: tuple[float, ...] = (1e-3, 3e-3, 6e-3)
    """1e-3 is the paper's, for far larger models."""
    trial_steps: int = 200
    """Of each trial of a learning rate, on the plain model."""
    router_lr: float = 1e-2
    """The paper's."""
    validate_every: int = 50
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def model(self) -> dict[str, Any]:
        """Settings of the model: LayerNorm, rotary embeddings, biases, untied unembedding."""
        return {
            "n_layers": self.n_layers,
            "d_model": self.d_model,
            "n_heads": self.n_heads,
            "d_head": self.d_model // self.n_heads,
            "d_mlp": 4 * self.d_model,
            "d_vocab": self.d_vocab,
            "n_ctx": self.context,
            "act_fn": "gelu",
            "normalization_type": "LN",
            "positional_embedding_type": "rotary",
            "rotary_dim": self.d_model // self.n_heads,
        }


FULL = Size()
TINY = Size(
    folder=CACHE / "tiny",
    text="python_reference",  # comes with Python
    train_tokens=4096,
    validation_tokens=512,
    held_out_tokens=512,
    n_layers=3,
    d_model=16,
    n_heads=2,
    d_vocab=300,
    context=32,
    trial_steps=2,
    validate_every=4,
    seeds=(0, 1),
)


def text_of(size: Size) -> tuple[Any, Contexts]:
    """Give the tokenizer and the tokens."""
    tokenizer = small_tokenizer(size.text, size.d_vocab, size.folder / "tokenizer")
    return tokenizer, contexts(
        size.text,
        tokenizer,
        context_size=size.context,
        train=size.train_tokens,
        validation=size.validation_tokens,
        held_out=size.held_out_tokens,
    )


def untrained(variant: str, seed: int, tokenizer: Any, size: Size = FULL) -> tuple[Any, LimeRouters | None]:
    """Build a model, and routers if the variant has them; the model's weights follow from the seed alone."""
    model = TransformerBridge.boot_native(size.model | {"seed": seed}, tokenizer=tokenizer)
    initial = VARIANTS[variant]
    return model, None if initial is None else attach_lime(model, initial=initial, seed=seed)


def trained(
    variant: str, seed: int, tokenizer: Any, tokens: Contexts, size: Size = FULL
) -> tuple[Any, LimeRouters | None, LanguageModelTraining]:
    """Train a model, go on where that was interrupted, or read what was trained."""
    model, routers = untrained(variant, seed, tokenizer, size)
    log = train_language_model(
        model,
        tokens.train,
        routers=routers,
        batch_size=size.batch_size,
        lr=size.lr,
        router_lr=size.router_lr,
        autocast=True,
        seed=seed,
        validation=tokens.validation,
        validate_every=size.validate_every,
        folder=size.folder / f"{variant}_{seed}",
    )
    model.eval()
    return model, routers, log


def learning_rates(tokenizer: Any, tokens: Contexts, size: Size = FULL) -> dict[str, float]:
    """Give the loss on validation documents after a short training of the plain model with each learning rate, nats a token."""
    found: dict[str, float] = {}
    for lr in size.tried_lrs:
        model, _ = untrained(PLAIN, 0, tokenizer, size)
        log = train_language_model(
            model,
            tokens.train,
            max_steps=size.trial_steps,
            batch_size=size.batch_size,
            lr=lr,
            autocast=True,
            validation=tokens.validation,
            folder=size.folder / f"trial_{lr:g}",
        )
        found[f"{lr:g}"] = float(log.validation_losses[-1])
    return found


def load_trained(
    variant: str, seed: int, size: Size = FULL
) -> tuple[Any, LimeRouters | None, Any, torch.Tensor]:
    """Give a trained model in evaluation mode, its attached routers or None, its tokenizer, and the held-out tokens [n, context].

    A model that is not trained yet is trained first.
    """
    tokenizer, tokens = text_of(size)
    model, routers, _ = trained(variant, seed, tokenizer, tokens, size)
    return model, routers, tokenizer, tokens.held_out


def over_seeds(of: Sequence[LanguageModelLoss], base: Sequence[LanguageModelLoss]) -> Estimate:
    """Estimate the mean difference of loss over the seeds, nats a token, by resampling sequences; the seeds are taken as given."""
    differences = [(a.losses - b.losses) / a.counts for a, b in zip(of, base, strict=True)]
    return mean_estimate(sum(differences) / len(differences))  # every sequence has equally many tokens


def compared(of: dict[int, LanguageModelLoss], base: dict[int, LanguageModelLoss]) -> dict[str, Any]:
    """Give what is noted of a variant against the plain model: differences of loss, below 0 if the variant is better."""
    each = {seed: loss.minus(base[seed]) for seed, loss in of.items()}
    values = [difference.value for difference in each.values()]
    return {
        "by_seed": {str(seed): asdict(difference) for seed, difference in each.items()},
        "over_seeds": asdict(over_seeds(list(of.values()), list(base.values()))),
        "standard_deviation_of_seeds": stdev(values) if len(values) > 1 else None,
        "perplexity_ratio": math.exp(fmean(values)),
    }


def shown(losses: dict[int, LanguageModelLoss], logs: dict[int, LanguageModelTraining]) -> dict[str, Any]:
    """Give what is noted of a variant."""
    perplexities = [loss.perplexity for loss in losses.values()]
    return {
        "perplexity": fmean(perplexities),
        "standard_deviation_of_seeds": stdev(perplexities) if len(perplexities) > 1 else None,
        "by_seed": {str(seed): asdict(loss.perplexity_estimate()) for seed, loss in losses.items()},
        "loss": {str(seed): loss.loss for seed, loss in losses.items()},
        "training_seconds": {str(seed): float(log.seconds.sum()) for seed, log in logs.items()},
    }


def measure(size: Size) -> tuple[dict[str, Any], dict[str, tuple[go.Figure, int]]]:
    """Train what is missing and measure everything on the held-out documents; gives the result, and figures and heights by ending of their names."""
    tokenizer, tokens = text_of(size)
    losses: dict[str, dict[int, LanguageModelLoss]] = {variant: {} for variant in VARIANTS}
    logs: dict[str, dict[int, LanguageModelTraining]] = {variant: {} for variant in VARIANTS}
    parameters: dict[str, Any] = {}
    maps: dict[int, go.Figure] = {}
    for variant in VARIANTS:
        for seed in size.seeds:
            model, routers, log = trained(variant, seed, tokenizer, tokens, size)
            logs[variant][seed] = log
            losses[variant][seed] = language_model_loss(model, tokens.held_out)
            parameters[variant] = {
                "model": sum(p.numel() for p in model.parameters()),
                "routers": 0
                if routers is None
                else sum(p.numel() for p in routers.parameters() if p.requires_grad),
            }
            if variant == LIME and routers is not None:
                maps[seed] = router_map(routers).plot()
            print(
                variant,
                seed,
                losses[variant][seed].perplexity_estimate(),
                f"{log.seconds.sum():.0f} s",
                flush=True,
            )
    result = {
        "size": asdict(size) | {"folder": None, "model": size.model},
        "text": {
            "name": size.text,
            "train_tokens": tokens.train.numel(),
            "validation_tokens": tokens.validation.numel(),
            "held_out_tokens": tokens.held_out.numel(),
            "held_out_sequences": len(tokens.held_out),
            "train_sample": tokenizer.decode(tokens.train[0].tolist()),
            "held_out_sample": tokenizer.decode(tokens.held_out[0].tolist()),
        },
        "validation_loss_of_plain_by_learning_rate": learning_rates(tokenizer, tokens, size),
        "parameters": parameters,
        **{variant: shown(losses[variant], logs[variant]) for variant in VARIANTS},
        **{f"{variant} minus plain": compared(losses[variant], losses[PLAIN]) for variant in (LIME, AVERAGE)},
    }
    figures = {
        "": (compared_losses(losses, PLAIN), 420),
        "_training": (training_curves(logs), 480),
        "_routers": (maps[size.seeds[0]], 660),
    }
    return result, figures


def main() -> None:
    """Train, measure, and write JSON and figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--only-train", action="store_true", help="Measure and write nothing.")
    parser.add_argument(
        "--tiny", action="store_true", help="A check in seconds; results go into benchmarks/.cache."
    )
    options = parser.parse_args()
    size = TINY if options.tiny else FULL
    if options.only_train:
        tokenizer, tokens = text_of(size)
        for seed in options.seeds or size.seeds:
            for variant in options.variants:
                trained(variant, seed, tokenizer, tokens, size)
        return
    started = time.monotonic()
    result, figures = measure(size)
    script = Path(__file__) if not options.tiny else size.folder / Path(__file__).name
    write_result(
        str(script), json.loads(json.dumps(result | {"seconds_of_this_run": time.monotonic() - started}))
    )
    if not options.tiny:
        for ending, (drawn, height) in figures.items():
            write_figure(str(script.with_stem(script.stem + ending)), drawn, height=height)


if __name__ == "__main__":
    main()
