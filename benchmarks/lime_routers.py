"""LIMe's routers trained on the frozen embedded model, from the identity (arXiv 2502.09245): what is gained, and which layers they come to read.

The paper trains routers from scratch together with the model; here every weight of the model stays as it is. Two controls say what of the gain is due to reading
other layers, and not to fitting the text with some thousand numbers: "own layer" trains those entries of the routers alone that mix the heads of a layer, and
"norms" no routers but about as many gains of the norms before attention. Learning rates, the paper's 1e-2 among them, are compared by the loss on validation
documents after a short training, for each by itself. The other texts say whether a gain carries over. Trainings are kept in benchmarks/.cache, which git ignores;
an interrupted one goes on where it was.

    python benchmarks/lime_routers.py             # on two cores; minutes are in the JSON
    python benchmarks/lime_routers.py --tiny      # some seconds, on a random model, no numbers of interest
"""

import argparse
import json
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch
from lime_controls import Trained, applied, gains, only_gains, own_layer_only
from lime_figures import changes_of_loss
from lime_text import Contexts, contexts, small_tokenizer
from result import write_figure, write_result
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext.embedded import load_embedded_model
from sae_lens_ext.lime import (
    LanguageModelLoss,
    LanguageModelTraining,
    LimeRouters,
    attach_lime,
    depthwise_circuits,
    language_model_loss,
    router_map,
    train_language_model,
)

ROUTERS, OWN_LAYER, NORMS = "routers", "own layer", "norms"
SETS = (ROUTERS, OWN_LAYER, NORMS)
"""What is trained: all entries of routers, those of each layer's own heads alone, or gains of norms."""
CACHE = Path(__file__).with_name(".cache") / "lime_routers"


@dataclass(frozen=True)
class Size:
    """What decides the numbers."""

    folder: Path = CACHE
    """Where trainings are kept."""
    text: str = "encyclopedia"
    """Name of the embedded text that is trained on."""
    others: tuple[str, ...] = ("python_source", "encyclopedia_fr")
    """Texts that are only measured on."""
    context: int = 128
    batch_size: int = 8
    train_tokens: int = 76_800
    trial_tokens: int = 20_480
    """Of the trainings that compare learning rates."""
    validation_tokens: int = 8_192
    held_out_tokens: int = 24_576
    other_tokens: int = 20_480
    circuit_tokens: int = 10_240
    rates: tuple[float, ...] = (1e-2, 1e-3)
    """Learning rates tried; 1e-2 is the paper's."""


FULL = Size()
TINY = Size(
    folder=CACHE / "tiny",
    text="python_reference",  # comes with Python
    others=(),
    context=32,
    batch_size=4,
    train_tokens=1024,
    trial_tokens=256,
    validation_tokens=256,
    held_out_tokens=512,
    circuit_tokens=512,
    rates=(1e-2, 1e-3),
)


def random_model(size: Size) -> Any:
    """Give the model of a tiny run: random, four layers."""
    tokenizer = small_tokenizer(size.text, 300, size.folder / "tokenizer")
    settings = {"n_layers": 4, "d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 32, "n_ctx": size.context}
    return TransformerBridge.boot_native(
        settings | {"d_vocab": 300, "act_fn": "gelu", "normalization_type": "LN", "seed": 0},
        tokenizer=tokenizer,
    )


def train(
    model: Any, name: str, rate: float, tokens: Contexts, size: Size, *, trial: bool = False
) -> tuple[Trained, LanguageModelTraining]:
    """Train from the model as it is, go on where that was interrupted, or read what was trained; leaves the model as it was."""
    most = (size.trial_tokens if trial else size.train_tokens) // size.context
    settings: dict[str, Any] = {
        "batch_size": size.batch_size,
        "autocast": True,
        "validation": tokens.validation,
        "validate_every": 0 if trial else 25,
        "checkpoint_every": 25,
        "folder": size.folder / f"{name}_{rate:g}{'_trial' if trial else ''}".replace(" ", "_"),
    }
    if name == NORMS:
        with only_gains(model):
            log = train_language_model(model, tokens.train[:most], trained="model", lr=rate, **settings)
            return {layer: gain.detach().clone() for layer, gain in gains(model).items()}, log
    with (
        attach_lime(model) as routers,
        own_layer_only(routers) if name == OWN_LAYER else nullcontext(),
    ):
        log = routers.train_on(tokens.train[:most], router_lr=rate, **settings)
    return routers, log


def measured(model: Any, trained: Trained | None, tokens: torch.Tensor) -> LanguageModelLoss:
    """Measure the model with what was trained, or as it is."""
    with applied(model, trained):
        return language_model_loss(model, tokens, autocast=True)


def n_parameters(name: str, trained: Trained) -> int:
    """Give how many numbers were trained."""
    if isinstance(trained, LimeRouters):
        of_layers = [
            R[:, -1:] if name == OWN_LAYER else R for layer, R in trained.weights.items() if layer > 0
        ]
        return sum(R.numel() for R in of_layers)
    return sum(gain.numel() for gain in trained.values())


def chosen_rate(
    model: Any, name: str, base: float, tokens: Contexts, size: Size
) -> tuple[float, dict[str, Any]]:
    """Give the learning rate with the lowest loss on validation documents after a short training, and what each came to, nats a token below 0 if better."""
    reached: dict[float, float] = {}
    for rate in size.rates:
        _, log = train(model, name, rate, tokens, size, trial=True)
        reached[rate] = (log.validation_loss or math.inf) - base
    return min(reached, key=lambda rate: reached[rate]), {
        f"{rate:g}": change for rate, change in reached.items()
    }


def shown(loss: LanguageModelLoss, base: LanguageModelLoss) -> dict[str, Any]:
    """Give what is noted of a measurement; the change is below 0 where the model predicts better than without routers."""
    return {
        "perplexity": asdict(loss.perplexity_estimate()),
        "loss": loss.loss,
        "change_of_loss": asdict(loss.minus(base)),
        "perplexity_ratio": math.exp(loss.loss - base.loss),
    }


def pattern(routers: LimeRouters) -> dict[str, Any]:
    """Give what is held against the paper's pattern: shares of the weight on other layers, beside those if all layers had the same."""
    frame = router_map(routers, off_diagonal=True).pattern().set_index("layer")
    early, late = frame.loc[2:4], frame.iloc[-3:]
    after_first = frame.loc[2:]  # layer 1 has one other layer only
    return {
        "first_buffer_of_layers_2_to_4": early["first"].tolist(),
        "uniform_of_layers_2_to_4": early["uniform"].tolist(),
        "predecessor_mean": float(after_first["predecessor"].mean()),
        "uniform_mean": float(after_first["uniform"].mean()),
        "predecessor_is_largest": float(
            (
                after_first["sources"].map(lambda sources: sources[0] if sources else -1)
                == after_first.index - 1
            )
            .astype(float)
            .mean()
        ),
        "first_two_of_last_three_layers": late["first_two"].tolist(),
        "uniform_of_last_three_layers": (2 * late["uniform"]).tolist(),
        "by_layer": json.loads(
            frame[["first", "first_two", "predecessor", "uniform"]].reset_index().to_json(orient="records")
        ),
    }


def circuits_shown(model: Any, routers: LimeRouters, tokens: torch.Tensor) -> list[dict[str, Any]]:
    """Give the strongest circuits between layers, with the tokens they serve."""
    with attach_lime(model, routers):
        found = depthwise_circuits(model, routers, tokens, autocast=True)
    return [
        {
            "circuit": circuit.name,
            "weight": circuit.weight,
            "value_share": circuit.value_share,
            "key_share": circuit.key_share,
            "tokens": [token.token for token in circuit.tokens],
        }
        for circuit in found.strongest(20)
    ]


def measure(size: Size, model: Any) -> tuple[dict[str, Any], dict[str, tuple[go.Figure, int]], LimeRouters]:
    """Train and measure everything; gives the result, figures and heights by ending of their names, and the routers."""
    tokens = contexts(
        size.text,
        model.tokenizer,
        context_size=size.context,
        train=size.train_tokens,
        validation=size.validation_tokens,
        held_out=size.held_out_tokens,
    )
    held_out = {size.text: tokens.held_out} | {
        text: contexts(
            text,
            model.tokenizer,
            context_size=size.context,
            train=size.context,
            validation=size.context,
            held_out=size.other_tokens,
        ).held_out
        for text in size.others
    }
    validation_base = measured(model, None, tokens.validation).loss
    rates, trials, logs = {}, {}, {}
    trained: dict[str, Trained] = {}
    for name in SETS:
        rates[name], trials[name] = chosen_rate(model, name, validation_base, tokens, size)
        trained[name], logs[name] = train(model, name, rates[name], tokens, size)
        print(name, rates, trials, logs[name], flush=True)
    base = {text: measured(model, None, of) for text, of in held_out.items()}
    losses = {
        text: {name: measured(model, trained[name], of) for name in SETS} for text, of in held_out.items()
    }
    changes = {
        text: {name: shown(loss, base[text]) for name, loss in of.items()} for text, of in losses.items()
    }
    routers: Any = trained[ROUTERS]
    result = {
        "size": asdict(size) | {"folder": None},
        "tokens": {text: of.numel() for text, of in held_out.items()} | {"trained": tokens.train.numel()},
        "parameters": {name: n_parameters(name, of) for name, of in trained.items()},
        "learning_rates": rates,
        "validation_change_of_loss_after_trial": trials,
        "training_seconds": {name: float(log.seconds.sum()) for name, log in logs.items()},
        "without": {text: asdict(loss.perplexity_estimate()) for text, loss in base.items()},
        **changes,
        **{
            f"{ROUTERS} minus {control}": {
                text: asdict(of[ROUTERS].minus(of[control])) for text, of in losses.items()
            }
            for control in (OWN_LAYER, NORMS)
        },
        "largest_entry_of_other_layers": max(
            float(R[:, :-1].detach().abs().max()) for layer, R in routers.weights.items() if layer > 0
        ),
        "pattern": pattern(routers),
        "circuits": circuits_shown(
            model, routers, tokens.held_out[: max(1, size.circuit_tokens // size.context)]
        ),
    }
    figures = {
        "": (changes_of_loss(changes), 420),
        "_map": (router_map(routers, off_diagonal=True).plot(), 760),
        "_training": (logs[ROUTERS].plot(), 480),
    }
    return result, figures, routers


def main() -> None:
    """Train, measure, and write JSON, figures and the routers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tiny", action="store_true", help="A check in seconds; results go into benchmarks/.cache."
    )
    options = parser.parse_args()
    size = TINY if options.tiny else FULL
    started = time.monotonic()
    result, figures, routers = measure(
        size, random_model(size) if options.tiny else load_embedded_model("bridge")
    )
    script = Path(__file__) if not options.tiny else size.folder / Path(__file__).name
    routers.save(script.with_suffix(".safetensors"))
    write_result(
        str(script), json.loads(json.dumps(result | {"seconds_of_this_run": time.monotonic() - started}))
    )
    if not options.tiny:
        for ending, (drawn, height) in figures.items():
            write_figure(str(script.with_stem(script.stem + ending)), drawn, height=height)


if __name__ == "__main__":
    main()
