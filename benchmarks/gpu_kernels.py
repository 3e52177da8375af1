"""The Triton kernels: the loss over all budgets and over one, forward and backward, at the paper's size.

The paper (arXiv 2505.24473) times F = 65,536 and d = 2304 on a GPU and on a number of tokens that need not be
ours, so its milliseconds stand beside ours for their ratio, all budgets over one, rather than for themselves.

python benchmarks/gpu_kernels.py         writes benchmarks/gpu_kernels.json; needs an NVIDIA GPU and a few minutes
"""

import json
import statistics
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from machine import machine

from sae_lens_ext.ops import multi_budget_loss, sparse_decode
from sae_lens_ext.ops.triton_kernels import availability

B, F, D = 8192, 65_536, 2304
RANKS = (32, 64, 128)
PRECISIONS = (torch.float32, torch.bfloat16)
WARM_UP, ROUNDS = 3, 20

PAPER = {  # milliseconds and peak GiB by K
    "torch.compile TopK": {32: (8.79, 2.92), 64: (11.75, 2.92), 128: (18.88, 2.93)},
    "torch.compile HierarchicalTopK": {32: (12.82, 6.29), 64: (23.38, 10.79), 128: (43.85, 19.80)},
    "Triton TopK": {32: (5.58, 2.92), 64: (6.34, 2.92), 128: (7.96, 2.93)},
    "Triton HierarchicalTopK": {32: (6.70, 2.92), 64: (8.00, 2.92), 128: (10.61, 2.93)},
}
BESIDE = {  # which of the paper's rows a row of ours is to be read with
    "kernels, all budgets": "Triton HierarchicalTopK",
    "kernels, one budget": "Triton TopK",
    "kernels, sparse_decode": "Triton TopK",
    "torch.compile, one budget": "torch.compile TopK",
}
Step = Callable[[], torch.Tensor]


def main() -> None:
    """Check, time, print, and write the JSON beside this file."""
    if not torch.cuda.is_available():
        raise SystemExit(
            "benchmarks/gpu_kernels.py times kernels on a GPU, and torch finds no CUDA device here. "
            "Run it on a machine with an NVIDIA GPU and a CUDA build of torch."
        )
    if not availability.use_triton(torch.empty(0, device="cuda")):
        raise SystemExit(
            "The Triton kernels would not be used here. Install triton, take a GPU of compute capability "
            f"{availability.LEAST_CAPABILITY} or more, and leave torch.use_deterministic_algorithms off."
        )
    rows = []
    for dtype in PRECISIONS:
        for k in RANKS:
            leaves, steps = contest(k, dtype)
            difference = largest_difference(leaves, steps)
            for name, numbers in timed(leaves, steps).items():
                rows.append({"precision": str(dtype).removeprefix("torch."), "K": k, "name": name, **numbers})
                print(line(rows[-1]), flush=True)
            print(ratios(rows[-len(steps) :], k), f"largest difference of a gradient {difference:.1e}\n")
            rows[-1]["difference_kernels_from_pytorch"] = difference
    gpu = torch.cuda.get_device_properties(0)
    result = {
        "machine": {**machine(), "gpu": gpu.name, "cuda": torch.version.cuda, "triton": version("triton")},
        "size": {"B": B, "F": F, "d": D, "rounds": ROUNDS},
        "rows": rows,
        "paper": PAPER,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


def contest(k: int, dtype: torch.dtype) -> tuple[list[torch.Tensor], dict[str, Step]]:
    """Give the tensors that get gradients, and what computes a loss from them, by name.

    Latents are drawn uniformly, which is the hardest case for the caches: real ones are used unevenly.
    """
    generator = torch.Generator("cuda").manual_seed(k)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device="cuda", dtype=dtype)

    values = normal(B, k).abs().sort(descending=True).values.requires_grad_()
    indices = torch.randint(F, (B, k), generator=generator, device="cuda")
    decoder, bias = (normal(F, D) / D**0.5).requires_grad_(), torch.zeros(D, device="cuda", dtype=dtype)
    target = normal(B, D)
    leaves = [values, decoder, bias.requires_grad_()]

    def budgets(levels: tuple[int, ...], with_triton: bool) -> torch.Tensor:
        with patch.object(availability, "IS_INSTALLED", with_triton):
            return multi_budget_loss(values, indices, decoder, bias, target, levels)[0]

    def decoded() -> torch.Tensor:
        return squared_error(bias + sparse_decode(values, indices, decoder), target)

    compiled = torch.compile(plain_topk, dynamic=False)  # for this K alone, as the kernels are
    everything, one = tuple(range(1, k + 1)), (k,)
    return leaves, {
        "kernels, all budgets": partial(budgets, everything, True),
        "kernels, one budget": partial(budgets, one, True),
        "kernels, sparse_decode": decoded,
        "PyTorch, all budgets": partial(budgets, everything, False),
        "PyTorch, one budget": partial(budgets, one, False),
        "torch.compile, one budget": lambda: compiled(values, indices, decoder, bias, target),
    }


def squared_error(reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """‖x − x̂‖² averaged over tokens."""
    return (reconstruction.float() - target.float()).pow(2).sum(dim=-1).mean()


def plain_topk(
    values: torch.Tensor,
    indices: torch.Tensor,
    decoder: torch.Tensor,
    bias: torch.Tensor,
    target: torch.Tensor,
) -> torch.Tensor:
    """TopK's loss as one would write it down, for torch.compile."""
    return squared_error(bias + (values.unsqueeze(-1) * decoder[indices]).sum(dim=1), target)


def step(leaves: list[torch.Tensor], loss: Step) -> float:
    """Take a forward and a backward pass, and give their milliseconds on the GPU."""
    for leaf in leaves:
        leaf.grad = None
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    loss().backward()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def timed(leaves: list[torch.Tensor], steps: dict[str, Step]) -> dict[str, dict[str, float]]:
    """Give median and quartiles of the milliseconds of each, taken in turns, and its peak memory in GiB.

    The peak includes the inputs and their gradients, as they are held while training.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    peaks: dict[str, float] = {}
    for i in range(WARM_UP + ROUNDS):
        for name, loss in steps.items():
            torch.cuda.reset_peak_memory_stats()
            milliseconds = step(leaves, loss)
            if i >= WARM_UP:
                times[name].append(milliseconds)
                peaks[name] = torch.cuda.max_memory_allocated() / 2**30
    found = {}
    for name, seen in times.items():
        q1, median, q3 = statistics.quantiles(seen, n=4, method="inclusive")
        found[name] = {
            "ms": round(median, 3),
            "ms_q1": round(q1, 3),
            "ms_q3": round(q3, 3),
            "peak_gib": round(peaks[name], 2),
        }
    return found


def largest_difference(leaves: list[torch.Tensor], steps: dict[str, Step]) -> float:
    """Relative difference between the gradients of the kernels and of PyTorch, over both losses."""
    found = 0.0
    for budgets in ("all budgets", "one budget"):
        step(leaves, steps[f"PyTorch, {budgets}"])
        wanted = [leaf.grad for leaf in leaves]
        step(leaves, steps[f"kernels, {budgets}"])
        for leaf, other in zip(leaves, wanted, strict=True):
            found = max(found, ((leaf.grad - other).norm() / other.norm()).item())
    return found


def line(row: dict[str, Any]) -> str:
    """One row of the printed table, with the paper's numbers at the end."""
    ours = f"{row['ms']:8.2f} ms ({row['ms_q1']:.2f} to {row['ms_q3']:.2f}) {row['peak_gib']:6.2f} GiB"
    text = f"{row['precision']:9} K = {row['K']:3} {row['name']:26} {ours}"
    if row["name"] not in BESIDE:
        return text
    milliseconds, peak = PAPER[BESIDE[row["name"]]][row["K"]]
    return f"{text:90} paper's {BESIDE[row['name']]}: {milliseconds:5.2f} ms {peak:.2f} GiB"


def ratios(rows: list[dict[str, Any]], k: int) -> str:
    """What all budgets cost over one, here and in the paper."""
    ms = {row["name"]: row["ms"] for row in rows}
    theirs = PAPER["Triton HierarchicalTopK"][k][0] / PAPER["Triton TopK"][k][0]
    ours = {who: ms[f"{who}, all budgets"] / ms[f"{who}, one budget"] for who in ("kernels", "PyTorch")}
    return (
        f"All budgets over one: kernels {ours['kernels']:.2f}, PyTorch {ours['PyTorch']:.2f}, "
        f"paper's kernels {theirs:.2f};"
    )


if __name__ == "__main__":
    main()
