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
# # One SAE at every sparsity budget
#
# How many latents a token should have is a question that a TopK SAE makes you answer before you train it. Another answer is
# another training, and another dictionary in which nothing has its old index.
#
# **HierarchicalTopK** ([2505.24473](https://arxiv.org/abs/2505.24473)) trains all budgets at once. With a token's latents in
# order of size, $z_1 \ge z_2 \ge \dots$, every prefix is to be a good reconstruction:
#
# $$L = \frac{1}{K}\sum_{j=1}^{K} \lVert x - \hat x_j \rVert^2, \qquad \hat x_j = b_{dec} + \sum_{r \le j} z_r e_r .$$
#
# This notebook trains one beside two TopK SAEs, and asks what each does at budgets that it was not trained for.

# %%
import os

import pandas as pd
import torch
from sae_lens import (
    SAE,
    ActivationsStore,
    HookedSAETransformer,
    LoggingConfig,
    MultiSAETrainingRunner,
    MultiSAETrainingRunnerConfig,
    TopKTrainingSAEConfig,
)

import sae_lens_ext as ext

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
TOKENS = 4_096 if SMALL else 100_000
D_SAE, K = (256, 16) if SMALL else (1024, 64)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# %% [markdown]
# ## The model
#
# The cell to change for a model of the hub. Expect curves of the same three shapes: the two lines that fall away from
# the budget they were trained for, and the one that does not.

# %%
MODEL = "embedded"  # or "gpt2", or "gemma-2-2b"

if MODEL == "embedded":
    model = ext.load_embedded_model("bridge", device=DEVICE)
    HOOK, MODEL_CLASS = "blocks.10.hook_out", "TransformerBridge"
elif MODEL == "gpt2":
    model = HookedSAETransformer.from_pretrained("gpt2", device=DEVICE)
    HOOK, MODEL_CLASS = "blocks.6.hook_resid_post", "HookedTransformer"
elif MODEL == "gemma-2-2b":
    model = HookedSAETransformer.from_pretrained_no_processing("gemma-2-2b", device=DEVICE, dtype="bfloat16")
    HOOK, MODEL_CLASS = "blocks.12.hook_resid_post", "HookedTransformer"
D_IN, SPECIAL = model.cfg.d_model, [model.tokenizer.bos_token_id]

# %% [markdown]
# ## Training
#
# Three SAEs of one size on one stream of activations: HierarchicalTopK for all budgets up to 64, TopK for 8, TopK for 64.
# `budgets="all"` is the default; `budgets=(8, 16, 32, 64)` names some, and is faster.

# %%
size = {"d_in": D_IN, "d_sae": D_SAE}
cfg = MultiSAETrainingRunnerConfig(
    saes={
        "every_budget": ext.HierarchicalTopKTrainingSAEConfig(**size, k=K, budgets="all"),
        f"topk_{K // 8}": TopKTrainingSAEConfig(**size, k=K // 8),
        f"topk_{K}": TopKTrainingSAEConfig(**size, k=K),
    },
    hook_names=HOOK,
    model_name=model.cfg.model_name,
    model_class_name=MODEL_CLASS,
    dataset_path="embedded:encyclopedia",
    context_size=128,
    training_tokens=TOKENS,
    train_batch_size_tokens=1024,
    store_batch_size_prompts=8,
    n_batches_in_buffer=16 if SMALL else 64,
    lr=3e-3,
    lr_warm_up_steps=10,
    lr_decay_steps=TOKENS // 1024 // 5,
    dead_feature_window=50,
    autocast_lm=True,
    exclude_special_tokens=SPECIAL,
    device=DEVICE,
    checkpoint_path=None,
    output_path="output",
    logger=LoggingConfig(log_to_wandb=False),
)
torch.manual_seed(0)  # SAELens' runners do not read cfg.seed
training = ext.embedded_texts("encyclopedia", split="train").to_dataset().shuffle(seed=0)
runner = MultiSAETrainingRunner(cfg, override_model=model, override_dataset=training)
mean = next(runner.activations_store.get_multi_hook_data_loader())[HOOK].mean(dim=0)
for sae in runner.saes.values():
    sae.b_dec.data = mean.clone()  # SAELens begins at 0; a short run learns far more from here
runner.run()

saes = {name: SAE.load_from_disk(f"output/{name}", device=DEVICE) for name in cfg.saes}
{name: type(sae).__name__ for name, sae in saes.items()}

# %% [markdown]
# ## Every k, in one pass
#
# `budget_curve` ranks the latents of each held-out token once and adds them up one by one. Vertical: explained variance.
# (At a k above its own a TopK uses latents that its training never let through; `with_k` does not go there, so each line ends at its own k.)

# %%
text = ext.embedded_texts("encyclopedia", split="test").to_dataset().shuffle(seed=0)
store = ActivationsStore.from_sae(model, saes["every_budget"], text)
activations = torch.cat([store.get_filtered_llm_batch() for _ in range(1 if SMALL else 6)])

curves = {name: ext.budget_curve(sae, activations, range(1, sae.cfg.k + 1)) for name, sae in saes.items()}
figure = curves["every_budget"].plot()
figure.update_traces(name="hierarchical_topk", showlegend=True)
for name in list(saes)[1:]:
    figure.add_scatter(x=curves[name].ks, y=curves[name].explained_variance, mode="lines", name=name)
figure.update_layout(title="one SAE for every k, and two for one")

# %% [markdown]
# Expect the TopK for 64 to fall far below the others at small k: at k = 8 it has kept the right eight of its latents, with values that
# were meant to be summed with 56 more. HierarchicalTopK stays within 0.03 of either specialist at the k that was trained for, with one set of
# weights. After three times as many tokens it is ahead at 8, 16 and 32, and 0.010 behind at 64: docs/hierarchical_topk.md.

# %%
budgets = [1, 2, 4, 8, 16, 32, 64] if not SMALL else [1, 2, 16]
pd.DataFrame(
    {
        name: {k: curve.explained_variance[k - 1] for k in budgets if k <= curve.ks[-1]}
        for name, curve in curves.items()
    }
).round(3)

# %% [markdown]
# ## A budget of your own
#
# `with_k` gives the same weights at another k: an ordinary `TopKSAE` with its own configuration, for anything that takes one.
# What does the model lose with 4, 16, 64 latents a token in place of its activations?

# %%
at = {f"k = {k}": ext.with_k(saes["every_budget"], k) for k in ((4, 16) if SMALL else (4, 16, 64))}
report = ext.evaluate_domains(
    model,
    at,
    {"encyclopedia": ext.embedded_texts("encyclopedia", split="test")},
    max_tokens=512 if SMALL else 2_048,
    autocast=True,
    show_progress=False,
)
report.to_frame().round(3)

# %% [markdown]
# A latent is the same latent at every budget. Here is what a token's first eight mean to its reconstruction, one after the other:

# %%
prompt = "The Danube rises in the Black Forest and flows into the Black Sea."
_, cache = model.run_with_cache(prompt, names_filter=[HOOK])
x = cache[HOOK][0, -2].float()
sae = saes["every_budget"]
with torch.no_grad():
    values, latents = sae.encode(x).topk(8)
    partial = sae.b_dec + (values[:, None] * sae.W_dec[latents]).cumsum(dim=0)
    left = (x - partial).norm(dim=-1) / (x - sae.b_dec).norm()
pd.DataFrame({"latent": latents.tolist(), "value": values.tolist(), "left to explain": left.tolist()}).round(
    2
)

# %% [markdown]
# ## To give away
#
# The folder is a stock `topk`. Saved at another budget, it is that SAE for whoever loads it:

# %%
ext.save_sae(ext.with_k(sae, K // 4), "output/sparser")
loaded = SAE.load_from_disk("output/sparser")
loaded.cfg.architecture(), loaded.cfg.k
