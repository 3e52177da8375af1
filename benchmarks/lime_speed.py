"""What LIMe costs: routing through one block of memory against the obvious forms, and whole passes with routers against without.

python benchmarks/lime_speed.py         writes lime_speed.json and lime_speed.svg; about six minutes on two cores, which must be idle. Linux only.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch
from interleaved import interleaved
from result import write_figure, write_result
from torch.nn.functional import cross_entropy
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext.embedded import load_embedded_model
from sae_lens_ext.lime import LimeRouters, attach_lime
from sae_lens_ext.ops.layer_routing import LayerMemory, route_naive

# Layers, key-value heads, width of a head; batch and context.
SIZES = {
    "arithmetic model: 4 layers, 4 heads of 8": (4, 4, 8, 128, 48),
    "small language model: 8 layers, 4 heads of 32": (8, 4, 32, 16, 128),
    "embedded model: 30 layers, 3 heads of 64": (30, 3, 64, 8, 128),
    "GPT-2 small: 12 layers, 12 heads of 64": (12, 12, 64, 8, 128),
}
FORMS = ("loop", "joined, einsum", "one block")
ROUNDS = 11


def main() -> None:
    """Time, draw, write; with --one, measure the memory of one form in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "FORM"))
    parser.add_argument("--tiny", action="store_true", help="one round and no embedded model; writes nothing")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(held_after_forward(*args.one)))
        return
    rounds = 1 if args.tiny else ROUNDS
    routing = {size: routing_times(size, rounds, loop=not args.tiny) for size in SIZES}
    passes = pass_times(rounds, embedded=not args.tiny)
    if args.tiny:
        return
    memory = {size: {form: _in_own_process(size, form) for form in FORMS[1:]} for size in SIZES}
    print(json.dumps(memory, indent=1), flush=True)
    write_result(
        __file__,
        {
            "threads": torch.get_num_threads(),
            "rounds": ROUNDS,
            "sizes": SIZES,
            "routing_forward_and_backward": routing,
            "held_after_forward_mib": memory,
            "passes": passes,
        },
    )
    figure = go.Figure()
    for form in FORMS:
        times = [routing[size][form]["ms"] for size in SIZES]
        figure.add_bar(
            name=form,
            x=[size.replace(": ", "<br>") for size in SIZES],
            y=times,
            text=[f"{ms:.0f}" for ms in times],
            textposition="outside",
        )
    figure.update_layout(
        title="Routing the keys and values of a pass, forward and backward",
        yaxis_title="milliseconds",
        yaxis_type="log",
        legend_title="Form",
    )
    write_figure(__file__, figure)


def routing_times(size: str, rounds: int, *, loop: bool) -> dict[str, dict[str, float]]:
    """Time the routing of keys and values of all layers, forward and backward."""
    n_layers, n_heads, d_head, batch, pos = SIZES[size]
    torch.manual_seed(0)
    keys = [torch.randn(batch, pos, n_heads, d_head, requires_grad=True) for _ in range(n_layers)]
    weights = list(LimeRouters(n_layers, n_heads, initial="random").weights.values())

    def step(form: str) -> Callable[[], None]:
        def run() -> None:
            for _ in ("keys", "values"):
                torch.stack([x.sum() for x in route(form, keys, weights)]).sum().backward()

        return run

    forms = FORMS if loop else FORMS[1:]
    found = interleaved({form: step(form) for form in forms}, rounds=rounds, against="joined, einsum")
    for form, row in found.items():
        print(f"{size:48s} {form:16s} {row['ms']:8.1f} ms  {row['ratio']:6.2f} times as fast", flush=True)
    return found


def route(form: str, keys: list[torch.Tensor], weights: list[torch.Tensor]) -> list[torch.Tensor]:
    """Route one kind of buffer through all layers."""
    if form == "one block":
        memory = LayerMemory(len(keys))
        memory.start(keys[0])
        return [memory.add(own, R) for own, R in zip(keys[1:], weights[1:], strict=True)]
    if form == "loop":
        return [route_naive(keys[: layer + 1], weights[layer]) for layer in range(1, len(keys))]
    return [
        torch.einsum("btsd,hs->bthd", torch.cat(keys[: layer + 1], dim=2), weights[layer].flatten(1))
        for layer in range(1, len(keys))
    ]


def held_after_forward(size: str, form: str) -> float:
    """Give the MiB that a forward pass through all layers leaves held for the backward pass."""
    n_layers, n_heads, d_head, batch, pos = SIZES[size]
    keys = [torch.randn(batch, pos, n_heads, d_head, requires_grad=True) for _ in range(n_layers)]
    weights = list(LimeRouters(n_layers, n_heads, initial="random").weights.values())
    small = [k[:1, :1].detach().requires_grad_() for k in keys]
    route(form, small, weights)
    before = _resident()
    held = [route(form, keys, weights) for _ in ("keys", "values")]
    after = _resident()
    outputs = sum(x.numel() * x.element_size() for routed in held for x in routed) / 2**20
    return round(after - before - outputs, 1)  # what attention reads must be held in any form


def _resident() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmRSS. This measurement needs Linux.")


def _in_own_process(size: str, form: str) -> float:
    # With these two, freed memory goes back to the system at once, and the resident set is what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, __file__, "--one", size, form]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def pass_times(rounds: int, *, embedded: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Time whole passes of models with their routers attached and paused, in turns."""
    small = {
        "arithmetic model, training step": (_native(4, 32, 24), 24, (128, 48)),
        "small language model, training step": (_native(8, 128, 2048), 2048, (16, 128)),
    }
    found: dict[str, Any] = {}
    for name, (model, n_tokens, shape) in small.items():
        routers = attach_lime(model, initial="random")
        tokens = torch.randint(n_tokens, shape)
        found[name] = _contest(name, routers, lambda m=model, t=tokens: _training_step(m, t), rounds)
    if embedded:
        model = load_embedded_model(kind="bridge")
        for p in model.parameters():
            p.requires_grad_(False)
        routers = attach_lime(model)
        tokens = torch.randint(5, 40_000, (8, 128))
        found["embedded model, forward"] = _contest(
            "embedded model, forward", routers, lambda: _forward(model, tokens), 5
        )
        found["embedded model, ten tokens of generation"] = _contest(
            "embedded model, ten tokens of generation", routers, lambda: _generate(model), 5
        )
    return found


def _native(n_layers: int, d_model: int, n_tokens: int) -> TransformerBridge:
    return TransformerBridge.boot_native(
        {
            "n_layers": n_layers,
            "d_model": d_model,
            "n_heads": 4,
            "d_head": d_model // 4,
            "d_mlp": 4 * d_model,
            "n_ctx": 128,
            "d_vocab": n_tokens,
            "act_fn": "gelu",
            "positional_embedding_type": "rotary",
            "rotary_dim": d_model // 4,
            "seed": 0,
        }
    )


def _contest(
    name: str, routers: LimeRouters, run: Callable[[], None], rounds: int
) -> dict[str, dict[str, float]]:
    def without() -> None:
        with routers.paused():
            run()

    times = interleaved({"without": without, "LIMe": run}, rounds=rounds, against="LIMe")
    # LIMe's time over the time without, in the same round.
    overhead = {
        key.replace("ratio", "overhead"): value for key, value in times["without"].items() if "ratio" in key
    }
    print(
        f"{name:48s} {times['without']['ms']:8.1f} ms, LIMe {times['LIMe']['ms']:8.1f} ms: {overhead}",
        flush=True,
    )
    return times | {"LIMe over without": overhead}


def _training_step(model: Any, tokens: torch.Tensor) -> None:
    logits = model(tokens, return_type="logits")
    cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    model.zero_grad()


@torch.no_grad()
def _forward(model: Any, tokens: torch.Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(tokens, return_type="logits")


def _generate(model: Any) -> None:
    model.generate("The weather today is", max_new_tokens=10, do_sample=False, verbose=False)


if __name__ == "__main__":
    main()
