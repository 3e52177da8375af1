"""Each fast operation against its naive twin and the obvious PyTorch alternatives, forward and backward.

python benchmarks/ops.py         writes ops.json and ops.svg; a few minutes on two cores
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import plotly.graph_objects as go
import torch
from interleaved import interleaved
from result import write_figure, write_result
from torch.nn.functional import embedding_bag

from sae_lens_ext.ops import (
    kron_encode,
    kron_encode_naive,
    latent_sums,
    latent_sums_naive,
    multi_budget_loss,
    multi_budget_loss_naive,
    sparse_decode,
    sparse_decode_naive,
    topk_encode,
    topk_encode_naive,
)

B, D, F, K, M, N = 2048, 576, 16384, 64, 4, 4
ROUNDS = 7
ALL = tuple(range(1, K + 1))
POWERS = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    """Time, draw, write."""
    torch.manual_seed(0)
    x = torch.randn(B, D)
    W_enc, b_enc = torch.randn(D, F) / D**0.5, torch.zeros(F)
    W_kron, b_kron = torch.randn(D, F // (M * N) * (M + N)) / D**0.5, torch.zeros(F // (M * N) * (M + N))
    decoder, bias = torch.randn(F, D) / D**0.5, torch.zeros(D)
    values, indices = (z.detach() for z in topk_encode(x, W_enc, b_enc, K))
    kron = {"base_dim": M, "extension_dim": N}

    def bag(values: torch.Tensor, decoder: torch.Tensor) -> torch.Tensor:
        return embedding_bag(indices, decoder, per_sample_weights=values, mode="sum")

    def coo(values: torch.Tensor, decoder: torch.Tensor) -> torch.Tensor:
        token = torch.arange(B).repeat_interleave(K)
        where = torch.stack((token, indices.flatten()))
        acts = torch.sparse_coo_tensor(where, values.flatten(), (B, F), check_invariants=False)
        return torch.sparse.mm(acts, decoder)

    def loss(of: Callable[..., Any], budgets: tuple[int, ...], *args: torch.Tensor) -> torch.Tensor:
        values, decoder, bias, x = args
        return of(values, indices, decoder, bias, x, budgets)[0]

    contests = {
        "TopK encoder": (
            {"naive": lambda *a: topk_encode_naive(*a, K)[0], "fast": lambda *a: topk_encode(*a, K)[0]},
            (x, W_enc, b_enc),
        ),
        "Kron encoder": (
            {
                "naive": lambda *a: kron_encode_naive(*a, K, **kron)[0],
                "fast": lambda *a: kron_encode(*a, K, **kron)[0],
            },
            (x, W_kron, b_kron),
        ),
        "sparse decode": (
            {
                "naive": lambda v, d: sparse_decode_naive(v, indices, d),
                "torch.sparse COO": coo,
                "embedding_bag": bag,
                "fast": lambda v, d: sparse_decode(v, indices, d),
            },
            (values, decoder),
        ),
        "loss over all budgets": (
            {
                "naive": partial(loss, multi_budget_loss_naive, ALL),
                "fast": partial(loss, multi_budget_loss, ALL),
            },
            (values, decoder, bias, x),
        ),
        "loss over powers of two": (
            {
                "naive": partial(loss, multi_budget_loss_naive, POWERS),
                "fast": partial(loss, multi_budget_loss, POWERS),
            },
            (values, decoder, bias, x),
        ),
        "weight gradient (sums by latent)": (
            {
                "naive": lambda v, x: latent_sums_naive(v, indices, x, F),
                "fast": lambda v, x: latent_sums(v, indices, x, F),
            },
            (values, x),
        ),
    }
    tables = {}
    for name, (forms, inputs) in contests.items():
        differentiable = name != "weight gradient (sums by latent)"
        steps = {form: partial(_run, run, inputs, differentiable) for form, run in forms.items()}
        tables[name] = interleaved(steps, rounds=ROUNDS, against="naive")
        for form, row in tables[name].items():
            print(f"{name:34s} {form:18s} {row['ms']:8.1f} ms  {row['ratio']:6.2f} times as fast", flush=True)
    size = {"B": B, "d": D, "F": F, "K": K, "m": M, "n": N, "threads": torch.get_num_threads()}
    write_result(__file__, {"size": size, "rounds": ROUNDS, "forward_and_backward": tables})
    figure = go.Figure()
    for form in ("naive", "torch.sparse COO", "embedding_bag", "fast"):
        seen = {name: table[form]["ms"] for name, table in tables.items() if form in table}
        text = [f"{ms:.0f}" for ms in seen.values()]
        figure.add_bar(name=form, x=list(seen), y=list(seen.values()), text=text, textposition="outside")
    figure.update_layout(
        title=f"Forward and backward, B = {B}, d = {D}, F = {F}, k = {K}",
        yaxis_title="milliseconds",
        yaxis_type="log",
    )
    write_figure(__file__, figure)


def _run(run: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...], differentiable: bool) -> None:
    if not differentiable:
        run(*inputs)
        return
    # The activations are data in training: only the weights and the latents' values get gradients.
    leaves = [t.detach().requires_grad_(t.shape != (B, D)) for t in inputs]
    out = run(*leaves)
    out.backward(torch.ones_like(out))


if __name__ == "__main__":
    main()
