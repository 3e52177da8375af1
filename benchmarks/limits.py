"""Where a training step's time goes, and how far it is from what the machine could do at best.

The limit counts only what cannot be avoided: the encoder's matrix product at the speed that this machine
multiplies matrices, and every byte that has to move at the speed that it copies memory. Nothing overlaps.

python benchmarks/limits.py         writes limits.json and limits.svg; two minutes on two cores
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
import torch
from result import write_figure, write_result
from saes import HIERARCHICAL, KRON, PLAIN, TOPK, make, trainer
from torch.profiler import ProfilerActivity, profile, record_function

B, D, F, K = 2048, 576, 16384, 64
STEPS = 5
# What a kernel of PyTorch belongs to, for kernels outside the optimiser and the bookkeeping.
KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "baddbmm_", "addmv_"),
    "top-k and sorting": ("topk", "sort"),
    "sums over latents and rows": (
        "_embedding_bag",
        "_embedding_bag_forward_only",
        "_embedding_bag_per_sample_weights_backward",
        "index_select",
        "scatter_add_",
        "index_add_",
        "gather",
        "index",
        "scatter_",
    ),
}


def main() -> None:
    """Measure the machine and the steps, draw, write."""
    torch.manual_seed(0)
    gflops, gigabytes = _matmul_speed(), _copy_speed()
    print(f"matrix products {gflops:.0f} GFLOP/s, copying {gigabytes:.1f} GB/s")
    rows = {}
    for name in (TOPK, PLAIN, HIERARCHICAL, KRON):
        parts, total = _profile(name)
        limit = _limit(name, gflops, gigabytes)
        rows[name] = {
            "ms": total,
            "parts_ms": parts,
            "limit_ms": limit,
            "times_the_limit": total / sum(limit.values()),
        }
        print(
            f"{name}: {total:.0f} ms, {rows[name]['times_the_limit']:.1f} times the limit; {parts}; limit {limit}"
        )
    size = {"batch": B, "d_in": D, "d_sae": F, "k": K, "threads": torch.get_num_threads()}
    machine_speed = {"matmul_gflops": gflops, "copy_gigabytes_per_second": gigabytes}
    write_result(__file__, {"size": size, "machine_speed": machine_speed, "steps": rows})
    _draw(rows)


def _profile(name: str) -> tuple[dict[str, float], float]:
    """Give milliseconds per step by kind of work, and of the whole step without the profiler."""
    made = trainer(make(name, D, F, K), B)
    x = torch.randn(B, D)
    update = made.optimizer.step
    for _ in range(2):
        made.step(x)
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        made.step(x)
        times.append(1e3 * (time.perf_counter() - start))
    made.optimizer.step = _recorded("optimiser", update)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(STEPS):
            made.step(x)
    parts = dict.fromkeys((*KINDS, "elementwise, copies and the rest", "optimiser"), 0.0)
    for event in seen.events():
        ancestors, parent = [], event.cpu_parent
        while parent is not None:
            ancestors.append(parent.name)
            parent = parent.cpu_parent
        kind = _kind(event.name, ancestors)
        parts[kind] += event.self_cpu_time_total / 1e3 / STEPS
    return {kind: round(ms, 1) for kind, ms in parts.items()}, round(statistics.median(times), 1)


def _recorded(label: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with record_function(label):
            return function(*args, **kwargs)

    return run


def _kind(name: str, ancestors: list[str]) -> str:
    if name == "optimiser" or "optimiser" in ancestors:
        return "optimiser"
    return next(
        (kind for kind, kernels in KINDS.items() if name.removeprefix("aten::") in kernels),
        "elementwise, copies and the rest",
    )


def _limit(name: str, gflops: float, gigabytes: float) -> dict[str, float]:
    """Give the least milliseconds that a step of this kind needs.

    Matrix products: the encoder, forward only, because its gradient is k-sparse; for SAELens' TopK the six
    dense products of its step. Memory: parameters and Adam's two moments are each read and written once,
    the gradients written once, and the k decoder rows of each token read twice (to decode, and for the
    latents' gradient). What fits into the caches, such as the [B, d] rows of the weight gradients, is free.
    """
    width = F // 2 if name == KRON else F  # m = n = 4
    products = 6 * B * D * F if name == TOPK else B * D * width
    parameters = D * (F + width)
    rows = 0 if name == TOPK else 2 * B * K * D
    return {
        "matrix products": round(2e3 * products / (gflops * 1e9), 1),
        "parameters": round(1e3 * 4 * 7 * parameters / (gigabytes * 1e9), 1),
        "rows": round(1e3 * 4 * rows / (gigabytes * 1e9), 1),
    }


def _matmul_speed() -> float:
    a, b = torch.randn(B, 4096), torch.randn(4096, 4096)
    return 2 * B * 4096 * 4096 / _seconds(lambda: a @ b) / 1e9


def _copy_speed() -> float:
    """Bytes read and written per second, in gigabytes."""
    a = torch.randn(2**27)
    b = torch.empty_like(a)
    return 2 * 4 * 2**27 / _seconds(lambda: b.copy_(a)) / 1e9


def _seconds(run: Callable[[], Any]) -> float:
    times = []
    for _ in range(7):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def _draw(rows: dict[str, dict]) -> None:
    figure = go.Figure()
    for kind in next(iter(rows.values()))["parts_ms"]:
        figure.add_bar(name=kind, x=list(rows), y=[row["parts_ms"][kind] for row in rows.values()])
    limits = [sum(row["limit_ms"].values()) for row in rows.values()]
    figure.add_scatter(
        name="physical limit",
        x=list(rows),
        y=limits,
        mode="markers",
        marker={"symbol": "line-ew", "size": 60, "line": {"width": 3, "color": "black"}},
    )
    figure.update_layout(
        barmode="stack", title="Where a training step's time goes", yaxis_title="milliseconds"
    )
    write_figure(__file__, figure)


if __name__ == "__main__":
    main()
