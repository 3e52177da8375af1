# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training on the latents that are kept
#
# A TopK SAE computes a score for each of its F latents, keeps k of them and throws the rest away: of 16,384 numbers
# per token 64 survive. The step that follows need not know of the others. This notebook shows the operations that make
# use of that, each beside the plain form it must equal, and what they save on this machine.
#
# No model is needed: what a step costs depends on the sizes, hardly on the numbers.

# %%
import os
import statistics
import time

import pandas as pd
import torch

import sae_lens_ext as ext
from sae_lens_ext import ops

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
B, D, F, K = (64, 32, 512, 8) if SMALL else (1024, 576, 8192, 32)  # tokens, width, latents, kept

torch.manual_seed(0)
x = torch.randn(B, D)

# %% [markdown]
# ## Encoding to (values, indices)
#
# `topk_encode` scores a few tokens at a time and keeps the k best of each; nothing of size [B, F] outlives a chunk. Its
# gradient has k entries a token, so the encoder's weight gradient is a sum over the uses of each latent and not a matrix
# product. Between equal scores the lower index wins, in both forms.

# %%
W_enc = (torch.randn(D, F) / D**0.5).requires_grad_()
b_enc = torch.zeros(F, requires_grad=True)

values, indices = ops.topk_encode(x, W_enc, b_enc, K)
expected_values, expected_indices = ops.topk_encode_naive(x, W_enc, b_enc, K)
assert torch.equal(indices, expected_indices)
torch.testing.assert_close(values, expected_values)

(gradient,) = torch.autograd.grad(values.sum(), W_enc)
(expected,) = torch.autograd.grad(expected_values.sum(), W_enc)
((gradient - expected).norm() / expected.norm()).item()

# %% [markdown]
# ## The best pairs of a Kron, without the pairs
#
# A Kron's latent scores $\sqrt{u_i v_j}$, which grows with either parent. A head's best latent is therefore the pair of its
# two maxima, and the k best latents of a token lie in the k heads with the best maxima. `kron_encode` expands only those.

# %%
m = n = 4
W_kron = torch.randn(D, F // (m * n) * (m + n)) / D**0.5
b_kron = torch.zeros(W_kron.shape[1])
pruned = ops.kron_encode(x, W_kron, b_kron, K, base_dim=m, extension_dim=n)
full = ops.kron_encode_naive(x, W_kron, b_kron, K, base_dim=m, extension_dim=n)
assert torch.equal(pruned[1], full[1])
f"{K * m * n} of {F} pairs scored per token"

# %% [markdown]
# ## All budgets at once
#
# HierarchicalTopK's loss is the mean error over the budgets 1..K. Written down, that is K reconstructions per token. With
# $D_a$ the sum of the errors that rank $a$ has a part in, all gradients are products with $D_a$, and the loss is too:
# $|J|\,L = \sum_a z_a\, e_a \cdot D_a - r \cdot D_1$.

# %%
decoder = (torch.randn(F, D) / D**0.5).requires_grad_()
bias = torch.zeros(D, requires_grad=True)
ranked = values.detach()
budgets = tuple(range(1, K + 1))
fast, reconstruction = ops.multi_budget_loss(ranked, indices, decoder, bias, x, budgets)
plain, _ = ops.multi_budget_loss_naive(ranked, indices, decoder, bias, x, budgets)
fast.item(), plain.item()

# %% [markdown]
# ## What it saves here
#
# In turns, so that whatever else the machine does falls on all of them. `benchmarks/train_step.py` times whole steps in
# SAELens' trainer, `examples/time_a_step.py` does so at a size of your choice.


# %%
def milliseconds(run) -> float:
    """Time one call, forward and backward."""
    start = time.perf_counter()
    run().backward()
    return 1e3 * (time.perf_counter() - start)


contests = {
    "TopK encoder": (
        lambda: ops.topk_encode_naive(x, W_enc, b_enc, K)[0].sum(),
        lambda: ops.topk_encode(x, W_enc, b_enc, K)[0].sum(),
    ),
    "decoder": (
        lambda: ops.sparse_decode_naive(ranked, indices, decoder).sum(),
        lambda: ops.sparse_decode(ranked, indices, decoder).sum(),
    ),
    "all budgets": (
        lambda: ops.multi_budget_loss_naive(ranked, indices, decoder, bias, x, budgets)[0],
        lambda: ops.multi_budget_loss(ranked, indices, decoder, bias, x, budgets)[0],
    ),
}
rows = {}
for name, (naive, quick) in contests.items():
    rounds = [(milliseconds(naive), milliseconds(quick)) for _ in range(2 if SMALL else 6)][1:]
    rows[name] = [statistics.median(times) for times in zip(*rounds, strict=True)]
pd.DataFrame(rows, index=["naive, ms", "fast, ms"]).T.round(1)

# %% [markdown]
# ## In an SAE
#
# The training classes use all of this by themselves. SAELens' bookkeeping gets the latents as a sparse tensor; as soon as a
# hook wants to see the dense ones, the step makes them.

# %%
cfg = ext.KronTrainingSAEConfig(d_in=D, d_sae=F, k=K, base_dim=m, extension_dim=n, budgets="all")
sae = ext.KronTrainingSAE(cfg)
values, indices = sae.encode_sparse(x)
values.shape, indices.shape

# %% [markdown]
# That Kron is trained for every budget up to k at once, so `with_k` may be used on it as on a HierarchicalTopK.

# %%
ext.with_k(sae, K // 2).encode_sparse(x)[0].shape
