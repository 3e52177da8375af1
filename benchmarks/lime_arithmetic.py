"""LIMe on the paper's arithmetic task (arXiv 2502.09245): accuracy by operand count, with routers and without, at the paper's size.

4 layers, 4 heads, d_model 32, 50,000 training examples of each operand count, and the routers' learning rate are the paper's; the expressions (see
`arithmetic_examples`) and everything else are our choice. Batch size and the model's learning rate, thrice the paper's, were chosen in trials of the model without
routers: with 64 and 3e-3 it learnt more in one epoch than with 128 and 1e-3 in one and a half. With and without routers a seed has the same weights at the start and
the same order of the data; all seeds have the same examples. "uniform average" is the control: frozen routers that average over layers. Each training has a folder of its own under .cache and goes on where it was interrupted, so two processes can share the work:

    OMP_NUM_THREADS=1 python benchmarks/lime_arithmetic.py --only-train --variants plain &
    OMP_NUM_THREADS=1 python benchmarks/lime_arithmetic.py --only-train --variants LIMe
    python benchmarks/lime_arithmetic.py        # measures what is not measured yet, and writes JSON and figure
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch
from interleaved import interleaved
from result import write_figure, write_result
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext.bootstrap import Estimate
from sae_lens_ext.lime.arithmetic import (
    ArithmeticAccuracy,
    ArithmeticExamples,
    arithmetic_accuracy,
    arithmetic_examples,
)
from sae_lens_ext.lime.attach import attach_lime
from sae_lens_ext.lime.training import (
    LanguageModelLoss,
    LanguageModelTraining,
    language_model_loss,
    train_language_model,
)

CACHE = Path(__file__).with_name(".cache") / "lime_arithmetic"
VARIANTS: dict[str, Any] = {
    "plain": None,
    "LIMe": "random",
    "LIMe from identity": "identity",
    "uniform average": "average",
}
"""How the routers start; None for none. The first two are what the paper compares."""
DEFAULT = ("plain", "LIMe", "uniform average")
COLOURS = {
    "plain": "#7f7f7f",
    "LIMe": "#d62728",
    "LIMe from identity": "#1f77b4",
    "uniform average": "#2ca02c",
}
LR, ROUTER_LR = 3e-3, 1e-2
EPOCHS = 1.0
"""How often everything is read. Once leaves the model without routers room to be better."""


@dataclass(frozen=True)
class Task:
    """What is trained and measured on."""

    operand_counts: tuple[int, ...] = (3, 4, 5, 6)
    n_train: int = 50_000
    n_held_out: int = 1_000
    """Of each operand count; none of these expressions is trained on."""
    batch_size: int = 64
    rounds: int = 40
    """Of timed steps."""

    def examples(self) -> tuple[ArithmeticExamples, ArithmeticExamples]:
        """Give those to train on and those held out."""
        train = arithmetic_examples(self.operand_counts, self.n_train)
        return train, arithmetic_examples(self.operand_counts, self.n_held_out, seed=1, distinct_from=train)


TINY = Task((2, 3), n_train=40, n_held_out=8, batch_size=16, rounds=2)


@dataclass(frozen=True)
class Run:
    """One trained model."""

    training: LanguageModelTraining
    accuracy: ArithmeticAccuracy
    loss: LanguageModelLoss
    parameters: int
    router_parameters: int
    reading: dict[str, list[float]]
    """Mean |R| of each layer by source layer, over heads."""


def build(variant: str, seed: int) -> tuple[Any, Any]:
    """Make a model of the paper's size, and its routers or None."""
    model = TransformerBridge.boot_native(
        {
            "n_layers": 4,
            "n_heads": 4,
            "d_model": 32,
            "d_head": 8,
            "d_mlp": 128,
            "n_ctx": 64,
            "d_vocab": 20,
            "act_fn": "gelu",
            "normalization_type": "LN",
            "positional_embedding_type": "rotary",
            "rotary_dim": 8,
            "seed": seed,
        }
    )
    initial = VARIANTS[variant]
    return model, None if initial is None else attach_lime(model, initial=initial, seed=seed)


def run(
    variant: str,
    seed: int,
    epochs: float,
    lr: float,
    examples: tuple[ArithmeticExamples, ArithmeticExamples],
    task: Task,
    cache: Path,
) -> Run:
    """Train and measure a model, or load what was trained and measured before."""
    model, routers = build(variant, seed)
    train, held_out = examples
    folder = cache / f"{variant}_{seed}_{epochs:g}_epochs_lr_{lr:g}".replace(" ", "_")
    training = train_language_model(
        model,
        train.tokens,
        loss_mask=train.loss_masks,
        routers=routers,
        epochs=epochs,
        batch_size=task.batch_size,
        lr=lr,
        router_lr=ROUTER_LR,
        seed=seed,
        checkpoint_every=500,
        folder=folder,
    )
    if not (folder / "accuracy.json").exists():
        arithmetic_accuracy(model, held_out).save(folder / "accuracy.json")
    if not (folder / "loss.json").exists():
        language_model_loss(
            model, held_out.tokens, loss_mask=held_out.loss_masks, batch_size=task.batch_size
        ).save(folder / "loss.json")
    weights = {} if routers is None else routers.weights
    found = Run(
        training,
        ArithmeticAccuracy.load(folder / "accuracy.json"),
        LanguageModelLoss.load(folder / "loss.json"),
        sum(p.numel() for p in model.parameters()),
        0 if routers is None else sum(p.numel() for p in routers.parameters()),
        {str(layer): R.detach().abs().mean(dim=(0, 2)).tolist() for layer, R in weights.items()},
    )
    print(variant, "seed", seed, found.accuracy, flush=True)
    return found


def step_times(variants: Sequence[str], train: ArithmeticExamples, task: Task) -> dict[str, Any]:
    """Time training steps of new models in turns: reading, gradients and AdamW, on a batch of the commonest length."""
    largest = max(range(len(train.tokens)), key=lambda i: train.tokens[i].numel())
    tokens = train.tokens[largest][: task.batch_size]
    targets = tokens[:, 1:].masked_fill(~train.loss_masks[largest][: task.batch_size, 1:], -100)

    def step_of(variant: str) -> Callable[[], None]:
        model, routers = build(variant, 0)
        groups = [{"params": list(model.parameters()), "lr": LR, "weight_decay": 0.1}]
        if routers is not None:
            groups.append({"params": list(routers.parameters()), "lr": ROUTER_LR, "weight_decay": 0.0})
        optimizer = torch.optim.AdamW(groups)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            logits = model(tokens, return_type="logits")[:, :-1]
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
            optimizer.step()

        return step

    found = interleaved(
        {variant: step_of(variant) for variant in variants}, rounds=task.rounds, against=variants[0]
    )
    batch = {
        "sequences": len(tokens),
        "length": tokens.shape[1],
        "rounds": task.rounds,
        "threads": torch.get_num_threads(),
    }
    return {"batch": batch, **found}


def summary(runs: dict[str, dict[int, Run]], task: Task, base: str) -> dict[str, Any]:
    """Give what is noted of the models: each by itself, over seeds, and less the one without routers, paired by seed and expression."""
    result: dict[str, Any] = {}
    for variant, by_seed in runs.items():
        one = next(iter(by_seed.values()))
        result[variant] = {
            "parameters": one.parameters,
            "router_parameters": one.router_parameters,
            "router_share": one.router_parameters / one.parameters,
            "over_seeds": {
                of: {
                    str(k): _spread([found.accuracy.accuracy(k, of).value for found in by_seed.values()])
                    for k in task.operand_counts
                }
                for of in ("answer", "chain")
            }
            | {"held_out_loss": _spread([found.loss.loss for found in by_seed.values()])},
            "seeds": {str(seed): _shown(found, task) for seed, found in by_seed.items()},
        }
        pairs = {seed: (found, runs[base][seed]) for seed, found in by_seed.items() if seed in runs[base]}
        if variant != base and pairs:
            result[f"{variant} less {base}"] = _differences(pairs, task)
    return result


def _differences(pairs: dict[int, tuple[Run, Run]], task: Task) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for of in ("answer", "chain"):
        found[of] = {}
        for k in task.operand_counts:
            of_seeds = {
                str(seed): own.accuracy.minus(other.accuracy, k, of) for seed, (own, other) in pairs.items()
            }
            found[of][str(k)] = _spread([gain.value for gain in of_seeds.values()]) | {
                "seeds": {seed: _interval(gain) for seed, gain in of_seeds.items()}
            }
    losses = {str(seed): own.loss.minus(other.loss) for seed, (own, other) in pairs.items()}
    found["held_out_loss"] = _spread([gain.value for gain in losses.values()]) | {
        "seeds": {seed: _interval(gain) for seed, gain in losses.items()}
    }
    return found


def _shown(found: Run, task: Task) -> dict[str, Any]:
    training = found.training
    return {
        **{
            of: {str(k): _interval(found.accuracy.accuracy(k, of)) for k in task.operand_counts}
            for of in ("answer", "chain")
        },
        "held_out_loss": _interval(found.loss.interval),
        "training_loss_of_last_20_steps": float(training.losses[-20:].mean()),
        "training_steps": len(training.losses),
        "training_tokens": int(training.tokens[-1]),
        "training_seconds": float(training.seconds.sum()),
        "mean_router_weight_by_source_layer": found.reading,
        "examples_written": list(found.accuracy.texts[:: max(1, len(found.accuracy.texts) // 4)]),
    }


def _interval(found: Estimate) -> list[float | None]:
    return [found.value, found.low, found.high]


def _spread(values: list[float]) -> dict[str, Any]:
    return {
        "mean": statistics.mean(values),
        "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
        "lowest": min(values),
        "highest": max(values),
    }


def figure(runs: dict[str, dict[int, Run]], task: Task) -> go.Figure:
    """Draw the accuracy by operand count: a line through the means over seeds, a faint dot for each seed."""
    drawing = go.Figure()
    counts = list(task.operand_counts)
    for variant, by_seed in runs.items():
        shares = [[found.accuracy.accuracy(k).value for k in counts] for found in by_seed.values()]
        own: Any = {"legendgroup": variant, "marker": {"color": COLOURS[variant], "size": 9}}
        for values in shares:
            drawing.add_scatter(x=counts, y=values, mode="markers", opacity=0.35, showlegend=False, **own)
        means = [statistics.mean(values) for values in zip(*shares, strict=True)]
        drawing.add_scatter(
            x=counts,
            y=means,
            mode="lines+text" if len(runs) < 3 else "lines",
            text=[f"{mean:.2f}" for mean in means],
            textposition="top center" if variant != "plain" else "bottom center",
            textfont={"color": COLOURS[variant]},
            line={"color": COLOURS[variant], "width": 2.5},
            name=variant,
            legendgroup=variant,
        )
    drawing.update_layout(
        title="Arithmetic, 4 layers, d_model 32: right answers on expressions not trained on<br><sup>line: mean over seeds; faint dots: seeds</sup>",
        xaxis={"title": "numbers in the expression", "dtick": 1},
        yaxis={"title": "share of right answers", "range": [0, 1.06]},
    )
    return drawing


def main(given: Sequence[str] | None = None) -> None:
    """Train what is not trained, measure, and write JSON and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=float, default=EPOCHS)
    parser.add_argument("--lr", type=float, default=LR, help="the model's; the routers' stays")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(DEFAULT))
    parser.add_argument("--only-train", action="store_true", help="write no JSON and no figure")
    parser.add_argument("--tiny", action="store_true", help="a few small examples, and no figure")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where trainings are kept")
    options = parser.parse_args(given)
    task = TINY if options.tiny else Task()
    cache = options.cache / "tiny" if options.tiny else options.cache
    examples = task.examples()
    print(*examples, sep="\n")
    runs: dict[str, dict[int, Run]] = {variant: {} for variant in options.variants}
    for seed in options.seeds:
        for variant in options.variants:
            runs[variant][seed] = run(variant, seed, options.epochs, options.lr, examples, task, cache)
    if options.only_train:
        return
    base = "plain" if "plain" in runs else options.variants[0]
    result = {
        "task": {
            "examples": [repr(own).splitlines() for own in examples],
            "train_examples_per_operand_count": task.n_train,
            "distinct_expressions_trained_on": len(set(examples[0].prompts)),
            "held_out_examples_per_operand_count": task.n_held_out,
            "longest": max(examples[1].texts, key=len),
        },
        "settings": {
            "epochs": options.epochs,
            "batch_size": task.batch_size,
            "lr": options.lr,
            "router_lr": ROUTER_LR,
            "seeds": options.seeds,
        },
        **summary(runs, task, base),
        "step_milliseconds": step_times(options.variants, examples[0], task),
    }
    drawing = figure(runs, task)
    script = str(cache / "lime_arithmetic.py") if options.tiny else __file__
    write_result(script, json.loads(json.dumps(result)))
    if not options.tiny:
        write_figure(script, drawing)


if __name__ == "__main__":
    main()
