"""Steering vectors trained by RLOO against controls (arXiv 2509.06608): held-out reward before and after.

All layers together and single layers, on the true reward and on a random one, after few steps too, and against the best single token to prefix the
completion with. Learning rates are the better of two by the reward on validation prompts after a whole training; the controls have that of the
true reward. Vectors and logs are kept beside this script; rl_readings.py reads them.

    python benchmarks/rl_vectors.py        # half an hour on two cores
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch
from result import write_figure, write_result
from rl_task import (
    GENERATION,
    GROUP_SIZE,
    LAST,
    MAX_NEW_TOKENS,
    MIDDLE,
    PENULTIMATE,
    PROMPTS_PER_STEP,
    SAMPLES,
    STEPS,
    VECTORS,
    sums,
)

from sae_lens_ext import (
    RewardMeasurement,
    SteeringVectors,
    TrainingLog,
    load_embedded_model,
    logit_lens,
    measure_reward,
    plot_training_logs,
    train_steering_vectors,
)

CACHE = Path(__file__).with_name(".cache") / "rl_vectors"
SETS: dict[str, tuple[list[int] | None, tuple[float, ...]]] = {
    "all layers": (None, (3e-3, 1e-2)),
    "last layer": ([LAST], (0.3, 1.0)),
    "penultimate layer": ([PENULTIMATE], (0.3, 1.0)),
    "middle layer": ([MIDDLE], (0.1, 0.3)),
}
"""Layers and the learning rates tried."""
FEW_STEPS = 6
RUNS: list[tuple[str, str, int, Any, int]] = [  # name, set, seed, control, steps
    ("all layers", "all layers", 0, None, STEPS),
    ("last layer", "last layer", 0, None, STEPS),
    ("penultimate layer", "penultimate layer", 0, None, STEPS),
    ("random reward", "all layers", 0, "random", STEPS),
    ("middle layer", "middle layer", 0, None, STEPS),
    ("all layers, few steps", "all layers", 0, None, FEW_STEPS),
    ("random reward, few steps", "all layers", 0, "random", FEW_STEPS),
    ("all layers, seed 1", "all layers", 1, None, STEPS),
]
N_PREFIXES, PREFIX_PROMPTS, PREFIX_SAMPLES = 24, 24, 8


def train(model: Any, name: str, of: str, lr: float, **changed: Any) -> SteeringVectors:
    """Train the vectors of a set, or go on where that was interrupted."""
    task = sums()
    settings: dict[str, Any] = {
        "layers": SETS[of][0],
        "group_size": GROUP_SIZE,
        "prompts_per_step": PROMPTS_PER_STEP,
        "steps": STEPS,
        "lr": lr,
        "folder": CACHE / _file(name),
        **GENERATION,
        **changed,
    }
    return train_steering_vectors(model, task.train, task.reward, **settings)


def learning_rate(model: Any, of: str) -> tuple[float, dict[str, float]]:
    """Give the best learning rate of a set, and the reward that a whole training with each has on the validation prompts."""
    reached: dict[float, float] = {}
    for lr in SETS[of][1]:
        vectors = train(model, f"{of} {lr:g}", of, lr)
        found = measure_reward(
            model,
            sums().validation,
            sums().reward,
            samples_per_prompt=SAMPLES,
            intervention=vectors.interventions(model),
            **GENERATION,
        )
        reached[lr] = found.mean
    return max(reached, key=lambda lr: reached[lr]), {f"{lr:g}": mean for lr, mean in reached.items()}


def first_tokens(model: Any, prompts: list[str], vectors: SteeringVectors) -> dict[int, str]:
    """Give tokens to try as a prefix: the base's likeliest first ones, and those that the last layer's vector names in the lens."""
    total = torch.zeros(model.cfg.d_vocab)
    with torch.no_grad():
        for prompt in prompts:
            tokens = model.to_tokens(prompt, prepend_bos=False)
            total += model(tokens, return_type="logits")[0, -1].softmax(-1)
    likely = total.topk(N_PREFIXES // 2).indices.tolist()
    frame = logit_lens(model, vectors, top_k=N_PREFIXES // 2).to_frame()
    named = [int(token) for token in frame[frame["side"] == "top"]["token_id"]]
    return {token: model.tokenizer.decode([token]) for token in dict.fromkeys([*likely, *named])}


def best_prefix(model: Any, vectors: SteeringVectors) -> tuple[RewardMeasurement, dict[str, Any]]:
    """Try tokens as prefixes on prompts that are trained on, and measure the best one on those held out."""
    task = sums()
    train_prompts, held_out, reward = task.train, task.held_out, task.reward
    shorter: dict[str, Any] = GENERATION | {
        "max_new_tokens": MAX_NEW_TOKENS - 1
    }  # the prefix is one of the tokens
    tried = {
        token: measure_reward(
            model,
            train_prompts[:PREFIX_PROMPTS],
            reward,
            samples_per_prompt=PREFIX_SAMPLES,
            prefix=token,
            **shorter,
        ).mean
        for token in first_tokens(model, train_prompts[:PREFIX_PROMPTS], vectors)
    }
    best = max(tried, key=lambda token: tried[token])
    names = {token: model.tokenizer.decode([token]) for token in tried}
    found = measure_reward(model, held_out, reward, samples_per_prompt=SAMPLES, prefix=best, **shorter)
    return found, {
        "token": names[best],
        "tried_on_training_prompts": {repr(names[t]): r for t, r in tried.items()},
    }


def shown(measurement: RewardMeasurement, base: RewardMeasurement) -> dict[str, Any]:
    """Give what is noted of a measurement."""
    gain = measurement.gain_over(base)
    return {
        "reward": measurement.mean,
        "reward_interval": measurement.interval,
        "gain": gain.value,
        "gain_interval": (gain.low, gain.high),
        "tokens": measurement.length,
        "ended": float(measurement.ended.mean()),
        "examples": list(measurement.completions[0][:4]),
    }


def main() -> None:
    """Train, measure on held-out prompts, and write JSON, logs, vectors and figures."""
    started = time.monotonic()
    model: Any = load_embedded_model("bridge")
    task = sums()
    held_out, reward = task.held_out, task.reward
    VECTORS.mkdir(exist_ok=True)
    base = measure_reward(model, held_out, reward, samples_per_prompt=SAMPLES, **GENERATION)
    rates, trials = {}, {}
    for of in SETS:
        rates[of], trials[of] = learning_rate(model, of)
    measured: dict[str, RewardMeasurement] = {}
    logs: dict[str, TrainingLog] = {}
    for name, of, seed, control, steps in RUNS:
        chosen = f"{of} {rates[of]:g}" if name == of else name
        vectors = train(model, chosen, of, rates[of], seed=seed, control=control, steps=steps)
        measured[name] = measure_reward(
            model,
            held_out,
            reward,
            samples_per_prompt=SAMPLES,
            intervention=vectors.interventions(model),
            **GENERATION,
        )
        folder = _file(name)
        shutil.copy(CACHE / _file(chosen) / "log.jsonl", VECTORS / f"{folder}.jsonl")
        vectors.save(VECTORS / f"{folder}.safetensors")
        logs[name] = TrainingLog.load(VECTORS / f"{folder}.jsonl")
        print(name, measured[name].estimate, f"{time.monotonic() - started:.0f} s", flush=True)
    last = SteeringVectors.load(VECTORS / "last_layer.safetensors")
    measured["best prefix token"], prefix = best_prefix(model, last)
    result = {
        "task": {
            "train_prompts": len(task.train),
            "validation_prompts": len(task.validation),
            "held_out_prompts": len(held_out),
            "samples": SAMPLES,
            "example": held_out[0],
        },
        "steps": STEPS,
        "learning_rates": rates,
        "validation_reward_by_learning_rate": trials,
        "base": shown(base, base),
        **{name: shown(found, base) for name, found in measured.items()},
        "true over random": vars(measured["all layers"].gain_over(measured["random reward"])),
        "true over random, few steps": vars(
            measured["all layers, few steps"].gain_over(measured["random reward, few steps"])
        ),
        "highest reward in training": {
            name: float(log.to_frame()["reward"].max()) for name, log in logs.items()
        },
        "all over last layer": vars(measured["all layers"].gain_over(measured["last layer"])),
        "all over best prefix": vars(measured["all layers"].gain_over(measured["best prefix token"])),
        "last layer over best prefix": vars(measured["last layer"].gain_over(measured["best prefix token"])),
        "prefix": prefix,
        "training_seconds": {name: float(log.to_frame()["seconds"].sum()) for name, log in logs.items()},
        "seconds_of_this_run": time.monotonic() - started,
    }
    write_result(__file__, json.loads(json.dumps(result)))
    write_figure(__file__, _bars({"base": base, **measured}))
    write_figure(
        str(Path(__file__).with_name("rl_vectors_training.py")), plot_training_logs(logs), height=480
    )


def _file(name: str) -> str:
    return name.replace(", ", "_").replace(" ", "_")


def _bars(measured: dict[str, RewardMeasurement]) -> go.Figure:
    estimates = {name: found.estimate for name, found in measured.items()}
    values = [found.value for found in estimates.values()]
    figure = go.Figure(
        go.Bar(
            x=values,
            y=list(estimates),
            orientation="h",
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [(found.high or 0) - found.value for found in estimates.values()],
                "arrayminus": [found.value - (found.low or 0) for found in estimates.values()],
            },
            text=[f"{value:.2f}" for value in values],
            textposition="inside",
            insidetextanchor="start",
        )
    )
    figure.update_layout(
        title="Held-out reward, 95 % intervals over prompts",
        xaxis_title="share of right answers",
        yaxis={"autorange": "reversed"},
    )
    return figure


if __name__ == "__main__":
    main()
