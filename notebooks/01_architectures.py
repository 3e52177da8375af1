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
# # New SAE architectures in SAELens
#
# `sae_lens_ext` adds sparse-autoencoder architectures to SAELens. You train them with SAELens' runners and load them
# with `SAE.load_from_disk`; nothing else changes. This notebook trains three of them on a small language model and
# shows what each is good for:
#
# 1. **HierarchicalTopK**: one SAE for every sparsity budget.
# 2. **Kron**: latents that are pairs, with a smaller encoder.
# 3. **Residual SAEs**: teach a finished SAE a new domain without touching it.
#
# Everything is offline. The model, SmolLM2-135M, and the texts come from `sae-lens-ext install-embedded`. The whole
# notebook takes some three minutes on two idle cores.

# %%
import logging
import os
import warnings

# What SAELens says of settings that are made on purpose below would fill the page.
warnings.filterwarnings("ignore", module="sae_lens|tqdm")
logging.getLogger("sae_lens").setLevel(logging.ERROR)

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
TRAINING_TOKENS = 4_096 if SMALL else 100_000
D_SAE = 256 if SMALL else 1024

# %%
import pandas as pd
import torch
from sae_lens import (
    SAE,
    ActivationsStore,
    BatchTopKTrainingSAEConfig,
    LoggingConfig,
    MultiSAETrainingRunner,
    MultiSAETrainingRunnerConfig,
)
from sae_lens.evals import EvalConfig, ExplainedVarianceCalculator, run_evals
from sae_lens.training.activation_scaler import ActivationScaler

import sae_lens_ext as ext

# %% [markdown]
# ## The model
#
# This is the cell to change for a model of your own. The texts below work with any model.

# %%
model = ext.load_embedded_model("bridge")
MODEL_CLASS = "TransformerBridge"  # only noted in the SAEs' metadata
HOOK = "blocks.10.hook_out"  # the residual stream after layer 10

# With the Hugging Face hub:
#     from sae_lens import HookedSAETransformer
#     model = HookedSAETransformer.from_pretrained("gpt2")
#     MODEL_CLASS = "HookedTransformer"
#     HOOK = "blocks.6.hook_resid_post"

D_IN = model.cfg.d_model
SPECIAL = [model.tokenizer.bos_token_id]
print(f"{model.cfg.model_name}: {model.cfg.n_layers} layers, d_model {D_IN}")

# %% [markdown]
# ## What there is
#
# Importing the package has registered its architectures with SAELens. `list_architectures` takes a pattern,
# `describe` prints an architecture's classes, fields and paper, and `cite` gives the BibTeX.

# %%
ext.list_architectures()

# %%
print(ext.describe("hierarchical_topk"))

# %%
print(ext.cite("kron"))

# %% [markdown]
# ## Training three SAEs in one pass
#
# `MultiSAETrainingRunner` is SAELens' own. It takes any mixture of architectures and runs the language model once for
# all of them. We train a HierarchicalTopK, a Kron, and a plain BatchTopK which will be the base of a residual SAE
# later. The text is an encyclopedia's summaries.
#
# Two things need a word, both because the run is short. SAELens starts `b_dec` at zero, and the activations' mean is
# large: an SAE that has to find it first spends its latents on it. So we set `b_dec` to the mean of a first batch. And
# a BatchTopK is saved with a threshold in place of its k, a running mean that moves by `topk_threshold_lr` a step:
# SAELens' default, 0.01, suits runs of thousands of steps; ours has about a hundred.


# %%
def train(saes, text):
    """Train SAEs on an embedded text and save each in output/NAME."""
    cfg = MultiSAETrainingRunnerConfig(
        saes=saes,
        hook_names=HOOK,
        model_name=model.cfg.model_name,
        model_class_name=MODEL_CLASS,
        dataset_path=f"embedded:{text}",
        context_size=128,
        training_tokens=TRAINING_TOKENS,
        train_batch_size_tokens=1024,
        store_batch_size_prompts=8,
        n_batches_in_buffer=16 if SMALL else 64,
        lr=3e-3,
        lr_warm_up_steps=10,
        lr_decay_steps=TRAINING_TOKENS // 1024 // 5,
        dead_feature_window=50,
        autocast_lm=True,
        exclude_special_tokens=SPECIAL,
        checkpoint_path=None,
        output_path="output",
        logger=LoggingConfig(log_to_wandb=False),
    )
    torch.manual_seed(0)  # SAELens' runners do not read cfg.seed
    dataset = ext.embedded_texts(text, split="train").to_dataset().shuffle(seed=0)
    runner = MultiSAETrainingRunner(cfg, override_model=model, override_dataset=dataset)
    mean = next(runner.activations_store.get_multi_hook_data_loader())[HOOK].mean(dim=0)
    for sae in runner.saes.values():
        if not isinstance(sae, ext.ResidualTrainingSAE):  # which has no b_dec
            sae.b_dec.data = mean.clone()
    runner.run()


train(
    {
        "budgets": ext.HierarchicalTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=64),
        "pairs": ext.KronTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=32, base_dim=2, extension_dim=4),
        "base": BatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=32, topk_threshold_lr=0.1),
    },
    "encyclopedia",
)

# %% [markdown]
# ## Loading by name
#
# The folder's `cfg.json` names the architecture, and `SAE.load_from_disk` picks the class. A HierarchicalTopK comes
# back as SAELens' own `TopKSAE` and a BatchTopK as a `JumpReLUSAE`: whoever you give them to does not need this
# package. Only `KronSAE` is a new class.

# %%
budgets, pairs, base = (SAE.load_from_disk(f"output/{name}") for name in ("budgets", "pairs", "base"))
pd.DataFrame(
    [
        {
            "folder": name,
            "trained as": sae.cfg.metadata.training_architecture,
            "loaded as": type(sae).__name__,
            "encoder parameters": sae.W_enc.numel(),
            "decoder parameters": sae.W_dec.numel(),
        }
        for name, sae in (("budgets", budgets), ("pairs", pairs), ("base", base))
    ]
)

# %% [markdown]
# Now activations of documents not trained on. `ActivationsStore` reads hook, context and special tokens from the metadata.


# %%
def held_out(text, n_batches=1 if SMALL else 6):
    """Held-out activations [N, d_in] at the hook, special tokens left out."""
    dataset = ext.embedded_texts(text, split="test").to_dataset().shuffle(seed=0)
    store = ActivationsStore.from_sae(model, base, dataset)
    return torch.cat([store.get_filtered_llm_batch() for _ in range(n_batches)])


prose = held_out("encyclopedia")
prose.shape

# %% [markdown]
# ## One SAE at every budget
#
# A TopK SAE is trained for one k. Run it at a smaller k and it has kept the right latents but with values that were
# meant to be summed with others. HierarchicalTopK trains all budgets at once, by averaging the error over them:
#
# $$L = \frac{1}{K}\sum_{j=1}^{K} \lVert x - \hat x_j \rVert^2, \qquad
#   \hat x_j = b_{dec} + \sum_{r \le j} z_r e_r,\quad z_1 \ge z_2 \ge \dots$$
#
# `budget_curve` measures explained variance at every k in one pass. Expect a curve that rises quickly and then
# flattens, with no k at which it breaks down: about 0.25 at k = 1, 0.5 at k = 4 and 0.7 at k = 64.

# %%
curve = ext.budget_curve(budgets, prose, ks=range(1, budgets.cfg.k + 1))
curve

# %%
figure = curve.plot()
figure.update_traces(name="hierarchical_topk, trained for every k", showlegend=True)
other = ext.budget_curve(pairs, prose, ks=range(1, pairs.cfg.k + 1))
figure.add_scatter(x=other.ks, y=other.explained_variance, mode="lines", name="kron, trained for k = 32 only")
figure

# %% [markdown]
# The second line is the Kron SAE, trained for k = 32 alone: it falls more steeply towards small k. (`budgets="all"` trains
# a Kron for every k, too. `sae-lens-ext quickstart` draws the comparison with a plain TopK SAE for each budget.)
#
# `with_k` turns the SAE to another budget. The result shares the weights and is an ordinary SAE with its own
# configuration, to be given to anything that takes one.

# %%
for k in (4, 16, 64):
    active = (ext.with_k(budgets, k).encode(prose) > 0).sum(dim=-1).float().mean().item()
    print(f"k = {k:<3} {active:.1f} latents per token")

# %% [markdown]
# ## Inside a Kron SAE
#
# A Kron SAE has no encoder vector per latent. Its encoder computes a few *pre-latents* per head, m base elements $u$
# and n extension elements $v$; each of a head's m · n latents is a pair of them, and scores
#
# $$z_{ij} = \mathrm{mAND}(u_i, v_j) = \sqrt{u_i v_j}\ \text{ if both are positive, else } 0.$$
#
# Then the k largest of all heads are kept. So the encoder needs m + n vectors a head where a TopK SAE needs m · n:
# with m = 2 and n = 4 that is 6 for 8, and 8 for 16 with m = n = 4.

# %%
h, m, n = pairs.n_heads, pairs.cfg.base_dim, pairs.cfg.extension_dim
text = "The Danube rises in the Black Forest and flows into the Black Sea."
_, cache = model.run_with_cache(text, names_filter=[HOOK])
token = -2  # the token " Sea"
x = cache[HOOK][0, token].detach()

with torch.no_grad():
    values, latents = pairs.encode_sparse(x)  # the k kept, largest first
    u, v = pairs.pre_latents(x)  # [h, m] and [h, n]
u.shape, v.shape

# %% [markdown]
# The flat index of a latent is $((\text{head} \cdot m) + i) \cdot n + j$, so `torch.unravel_index` finds its parents.
# In each row of this table the value is the geometric mean of the two parents.

# %%
head, i, j = torch.unravel_index(latents, (h, m, n))
strongest = pd.DataFrame(
    {
        "latent": latents,
        "head": head,
        "base element": i,
        "extension element": j,
        "u": u[head, i],
        "v": v[head, j],
        "value": values,
    }
).head(6)
strongest.round(2)

# %% [markdown]
# This is the whole head of the strongest latent, with $u$ down the side and $v$ along the top. A row whose $u$ is
# negative is zero throughout, and so is a column whose $v$ is: both parents must be on.

# %%
top = int(head[0])
grid = (u[top].relu()[:, None] * v[top].relu()[None, :]).sqrt()
pd.DataFrame(
    grid.round(decimals=2),
    index=[f"u = {value:.2f}" for value in u[top]],
    columns=[f"v = {value:.2f}" for value in v[top]],
)

# %% [markdown]
# ## Residual SAEs
#
# The base SAE has only ever read an encyclopedia. On Python source code it explains much less. A residual SAE is a
# small SAE that reads the same activation $x$ and predicts what the base misses, $e = x - \mathrm{base}(x)$. The base
# is frozen: its features, their indices and their explanations stay as they are.
#
# The base is named by its folder, so the residual SAE trains like any other.

# %%
residual_cfg = ext.ResidualTrainingSAEConfig(
    d_in=D_IN, d_sae=D_SAE // 2, k=5, topk_threshold_lr=0.1, base_path="output/base"
)
train({"python_residual": residual_cfg}, "python_source")

# %% [markdown]
# `ResidualStackSAE` puts base and residuals together as one flat SAE. `stack.active` says which domains are on; with
# none, the stack is the base.

# %%
residual = SAE.load_from_disk("output/python_residual")
stack = ext.ResidualStackSAE.from_saes(base, {"python": residual})
print(stack.domains, stack.cfg.d_sae, stack.locate(base.cfg.d_sae + 3))


# %%
@torch.no_grad()
def explained_variance(sae, activations):
    calculator = ExplainedVarianceCalculator()
    for batch in activations.split(512):
        calculator.add_batch(sae(batch), batch)
    return calculator.compute()


code = held_out("python_source")
rows = []
for active in ((), ("python",)):
    stack.active = active
    rows.append(
        {
            "active": active,
            "EV on prose": explained_variance(stack, prose),
            "EV on Python": explained_variance(stack, code),
        }
    )
pd.DataFrame(rows).round(3)

# %% [markdown]
# Expect a clear gain on Python, from below 0.45 to about 0.7. What happens on prose is the number to watch: the
# residual's features are meant to stay silent there, but nothing in the loss forces them to. Measure both, always; with
# so little training the cost on prose can be larger than in the paper, which trains on a billion tokens.
#
# `to_native()` turns the stack, with the domains that are active, into one ordinary JumpReLU SAE. It is exact here
# because the base, too, works by thresholds; on a TopK base it refuses, since no stock architecture has a budget for
# some of its latents only.

# %%
native = stack.to_native()
with torch.no_grad():
    print(type(native).__name__, native.cfg.d_sae, (native(code) - stack(code)).abs().max().item())

# %% [markdown]
# ## In the model
#
# The stack has one set of hooks and sits on one hook point, so everything that SAELens' models do with an SAE works:
# here the loss of the model on held-out Python when the stack's reconstruction stands in for the activation.
# `ce_loss_score` is 1 if nothing is lost and 0 if replacing the activation by zeros would be as good. Expect it to rise
# from about a half to over 0.9 with the domain on: the model can read code again.

# %%
dataset = ext.embedded_texts("python_source", split="test").to_dataset().shuffle(seed=0)
evaluation = EvalConfig(
    batch_size_prompts=4, n_eval_reconstruction_batches=1 if SMALL else 2, compute_ce_loss=True
)
rows = []
for active in ((), ("python",)):
    stack.active = active
    store = ActivationsStore.from_sae(model, stack, dataset)  # a new store: the same tokens for both
    metrics, _ = run_evals(
        stack, store, model, ActivationScaler(), evaluation, exclude_special_tokens=SPECIAL
    )
    rows.append({"active": active, **metrics["model_performance_preservation"]})
pd.DataFrame(rows).round(3)

# %% [markdown]
# And text, with the SAE attached while the model generates. With `use_error_term=True` the part the SAE misses is
# added back, so the text is the model's own until you intervene on a latent; without it the model sees the reconstruction.

# %%
prompt = "def fibonacci(n):\n"
settings = {"max_new_tokens": 10 if SMALL else 25, "do_sample": False, "verbose": False}
print(model.generate(prompt, **settings))
for use_error_term in (True, False):
    with model.saes([stack], use_error_term=use_error_term):
        print(f"\n--- use_error_term={use_error_term}\n{model.generate(prompt, **settings)}")

# %% [markdown]
# Which of the new domain's latents fire most on a line of code? `flat_index` and `locate` translate between a
# domain's own numbering and the flat index of the stack.

# %%
line = "    for index, value in enumerate(values):"
_, cache = model.run_with_cache(line, names_filter=[HOOK])
stack.active = stack.domains
with torch.no_grad():
    acts = stack.encode(cache[HOOK][0, 1:])  # [position, latent], without BOS
new = acts[:, stack.flat_index("python", 0) :]
strongest = new.max(dim=0).values.topk(5)
tokens = model.to_str_tokens(line)[1:]
pd.DataFrame(
    [
        {
            "latent of 'python'": int(index),
            "flat index": stack.flat_index("python", int(index)),
            "strongest at": tokens[int(new[:, index].argmax())],
            "value": float(value),
        }
        for value, index in zip(strongest.values, strongest.indices, strict=True)
    ]
).round(2)

# %% [markdown]
# ## Where to go on
#
# - `02_sparse_steps.py` shows what makes their training steps fast.
# - `examples/` holds each of these as a script to copy, on SAELens' single-SAE runner.
# - `docs/` has a page for each method: the formula, what we do differently, pitfalls, measured numbers.
