"""The findings of arXiv 2509.06608 asked of the vectors that rl_vectors.py trained, one by one.

Texts are what the model wrote on held-out prompts, steered by the vectors that are read. Where does the last layer's vector act? Which tokens does the
lens name, and what does prefixing them bring? By which path does the penultimate vector act? How does the effect of a layer's vector travel?

    python benchmarks/rl_readings.py        # nine minutes on two cores, after rl_vectors.py
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from result import write_figure, write_result
from rl_task import GENERATION, LAST, MAX_NEW_TOKENS, MIDDLE, PENULTIMATE, SAMPLES, VECTORS, sums

from sae_lens_ext import (
    Persistence,
    RewardMeasurement,
    SteeringVectors,
    TokenShift,
    load_embedded_model,
    logit_lens,
    measure_reward,
    pair_gains,
    patched_paths,
    path_patching,
    persistence,
    propagated_effect,
    token_shift,
)

NAMES = {"all layers": "all_layers", "last layer": "last_layer", "penultimate layer": "penultimate_layer"}
LENS_TOKENS = 10
MODES = ("full", "skip_attn", "skip_mlp", "skip_layer", "base")


def figure_file(name: str) -> str:
    """Give the script path whose figure would be this one."""
    return str(Path(__file__).with_name(f"rl_readings_{name}.py"))


def records(frame: Any) -> list[dict[str, Any]]:
    """Give a data frame's rows, null where a number is not defined."""
    return json.loads(frame.to_json(orient="records"))


def shift_shown(shift: TokenShift) -> dict[str, Any]:
    """Give what is noted of a token shift."""
    concentration = shift.concentration
    return {
        "summary": records(shift.summary().reset_index(names="tokens")),
        "by_offset": records(shift.by_offset()),
        "share_of_kl_on_first_token": vars(concentration.kl),
        "share_if_even": concentration.even,
        "boosted_first": records(shift.boosted_tokens(first=True)),
        "boosted_rest": records(shift.boosted_tokens(first=False)),
    }


def lens_shown(model: Any, vectors: Any) -> dict[str, Any]:
    """Give the tokens at both ends, with the largest cosine that random directions reach."""
    found = logit_lens(model, vectors, top_k=LENS_TOKENS)
    frame = found.to_frame()
    return {
        "null_cosine": found.null_cosine,
        **{
            side: [[row.token, row.value] for row in frame[frame["side"] == side].itertuples()]
            for side in ("top", "bottom")
        },
    }


def prefix_rewards(
    model: Any, tokens: list[int], base: RewardMeasurement, last: RewardMeasurement
) -> dict[str, Any]:
    """Measure what single tokens bring as prefixes, and which share of the last layer's gain that is."""
    task = sums()
    held_out, reward = task.held_out, task.reward
    found: dict[str, Any] = {}
    for token in tokens:
        with_prefix = measure_reward(
            model,
            held_out,
            reward,
            samples_per_prompt=SAMPLES,
            prefix=token,
            max_new_tokens=MAX_NEW_TOKENS - 1,
            prepend_bos=False,
        )
        gain = with_prefix.gain_over(base)
        found[repr(model.tokenizer.decode([token]))] = {
            "reward": with_prefix.mean,
            "reward_interval": with_prefix.interval,
            "gain": vars(gain),
            "share_of_last_layers_gain": gain.value / last.gain_over(base).value,
        }
    return found


def random_like(vectors: SteeringVectors) -> SteeringVectors:
    """Give vectors of the same norms in random directions."""
    generator = torch.Generator().manual_seed(0)
    drawn = {layer: torch.randn(vectors.d_model, generator=generator) for layer in vectors}
    return SteeringVectors({layer: v / v.norm() * vectors[layer].norm() for layer, v in drawn.items()})


def persistence_shown(found: Persistence) -> dict[str, Any]:
    """Give means over vectors by how many blocks lie between."""
    frame = found.to_frame()
    frame = frame[frame["block"] > frame["layer"]].assign(distance=lambda f: f["block"] - f["layer"])
    columns = [
        "diff_vector",
        "null_diff_vector",
        "diff_diff",
        "diff_diff_others",
        "null_diff_diff",
        "vector_cosine",
        "norm_ratio",
    ]
    by_distance = frame.groupby("distance")[columns].mean().loc[[1, 2, 5, 10, 20]]
    return {
        "n_tokens": found.n_tokens,
        "mean": frame[columns].mean().to_dict(),
        "share_of_diff_diff_above_0.3": float((frame["diff_diff"] > 0.3).mean()),
        "share_of_abs_diff_vector_below_0.1": float((frame["diff_vector"].abs() < 0.1).mean()),
        "by_distance": records(by_distance.reset_index()),
    }


def main() -> None:
    """Read the vectors, and write JSON and figures."""
    started = time.monotonic()
    model: Any = load_embedded_model("bridge")
    task = sums()
    held_out, reward = task.held_out, task.reward
    vectors = {name: SteeringVectors.load(VECTORS / f"{file}.safetensors") for name, file in NAMES.items()}
    middle = SteeringVectors.load(VECTORS / "middle_layer.safetensors")

    def measured(steering: SteeringVectors | None) -> RewardMeasurement:
        intervention = None if steering is None else steering.interventions(model)
        return measure_reward(
            model, held_out, reward, samples_per_prompt=SAMPLES, intervention=intervention, **GENERATION
        )

    base = measured(None)
    steered = {name: measured(of) for name, of in vectors.items()}
    some = {name: found.sequences[::4] for name, found in steered.items()}  # four completions of each prompt
    one = {name: found.sequences[::SAMPLES] for name, found in steered.items()}  # and one
    result: dict[str, Any] = {
        "base_reward": base.mean,
        "rewards": {name: found.mean for name, found in steered.items()},
    }

    shifts = {name: token_shift(model, of, some[name]) for name, of in vectors.items()}
    result["token_shift"] = {name: shift_shown(shift) for name, shift in shifts.items()}
    for name, shift in shifts.items():
        write_figure(figure_file(f"shift_{NAMES[name]}"), shift.plot())
    write_figure(figure_file("strip"), shifts["last layer"].plot_tokens(), height=560)

    last = vectors["last layer"]
    effects = {
        name: propagated_effect(model, of, one[name], tokens="generated")
        for name, of in vectors.items()
        if len(of) == 1
    }
    result["lens"] = {name: lens_shown(model, of) for name, of in vectors.items() if len(of) == 1}
    result["lens_of_propagated_effect"] = {
        name: lens_shown(model, effect) for name, effect in effects.items()
    }
    write_figure(figure_file("lens"), logit_lens(model, vectors["all layers"], top_k=8).plot(), height=760)
    frame = logit_lens(model, last, top_k=3).to_frame()
    named = [int(token) for token in frame[frame["side"] == "top"]["token_id"]]
    boosted = [int(token) for token in shifts["last layer"].boosted_tokens(first=True, n=3)["token_id"]]
    result["prefixes"] = {
        "named_by_the_lens": prefix_rewards(model, named, base, steered["last layer"]),
        "most_boosted_at_the_first_token": prefix_rewards(model, boosted, base, steered["last layer"]),
    }

    penultimate = vectors["penultimate layer"]
    paths = path_patching(model, penultimate, one["penultimate layer"], modes=MODES, heads="all")
    result["paths"] = {
        "identities": dict(paths.identities),
        "rows": records(paths.to_frame()),
        "reward": {},
    }
    for mode in MODES:
        with patched_paths(model, penultimate, mode):
            found = measure_reward(model, held_out, reward, samples_per_prompt=SAMPLES, **GENERATION)
        result["paths"]["reward"][mode] = {
            "reward": found.mean,
            "interval": found.interval,
            "gain": vars(found.gain_over(base)),
        }
    write_figure(figure_file("paths"), paths.plot())
    write_figure(figure_file("heads"), paths.plot_heads())

    found = persistence(model, vectors["all layers"], one["all layers"], tokens="generated")
    result["persistence"] = persistence_shown(found)
    unrelated = persistence(model, random_like(vectors["all layers"]), one["all layers"], tokens="generated")
    result["persistence_of_random_vectors"] = persistence_shown(unrelated)
    write_figure(figure_file("persistence"), found.plot(), height=460)

    singles = {MIDDLE: middle, PENULTIMATE: penultimate, LAST: last}
    rewards = {layer: measured(of) for layer, of in singles.items()}
    pairs = {(i, j): measured(singles[i] + singles[j]) for i in singles for j in singles if i < j}
    gains = pair_gains(rewards, pairs, steered["all layers"])
    result["pair_gains"] = {
        "note": "the vectors of a pair were trained one at a time, and added",
        "rewards": {f"{i}+{j}": found.mean for (i, j), found in pairs.items()},
        "gains": records(gains.to_frame()),
    }
    result["seconds"] = time.monotonic() - started
    write_result(__file__, json.loads(json.dumps(result, default=_plain)))


def _plain(value: Any) -> Any:
    """Give NumPy's numbers as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is nothing that JSON knows")


if __name__ == "__main__":
    main()
