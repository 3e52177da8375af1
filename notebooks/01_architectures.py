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
# # New SAE architectures, by name
#
# `sae_lens_ext` adds sparse-autoencoder architectures to SAELens. Importing it registers them; from then on SAELens' own
# runners train them and `SAE.load_from_disk` loads them. This notebook trains three SAEs on one forward pass of a small
# language model, loads each by name, and uses them as you would use any SAE.
#
# The next ones look inside: [HierarchicalTopK](02_every_budget.py), [Kron](03_inside_kron.py),
# [residual SAEs](04_augment.py).

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
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.training.activation_scaler import ActivationScaler

import sae_lens_ext as ext

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
TOKENS = 4_096 if SMALL else 100_000
D_SAE = 256 if SMALL else 1024
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# %% [markdown]
# ## The model
#
# This is the cell to change. `"embedded"` is SmolLM2-135M-Instruct, which `sae-lens-ext install-embedded` has put on this
# machine. The other two come from the Hugging Face hub; everything below runs on them as it stands. Expect the same table
# with other numbers: `d_in` is 768 for gpt2 and 2,304 for Gemma 2 2B, and with so few tokens the EV of a wider model is lower.

# %%
MODEL = "embedded"  # or "gpt2", or "gemma-2-2b"

if MODEL == "embedded":
    model = ext.load_embedded_model("bridge", device=DEVICE)
    HOOK, MODEL_CLASS = "blocks.10.hook_out", "TransformerBridge"  # the residual stream after layer 10
elif MODEL == "gpt2":
    model = HookedSAETransformer.from_pretrained("gpt2", device=DEVICE)
    HOOK, MODEL_CLASS = "blocks.6.hook_resid_post", "HookedTransformer"
elif MODEL == "gemma-2-2b":
    model = HookedSAETransformer.from_pretrained_no_processing("gemma-2-2b", device=DEVICE, dtype="bfloat16")
    HOOK, MODEL_CLASS = "blocks.12.hook_resid_post", "HookedTransformer"
D_IN, SPECIAL = model.cfg.d_model, [model.tokenizer.bos_token_id]
print(f"{model.cfg.model_name}: {model.cfg.n_layers} layers, d_model {D_IN}")

# %% [markdown]
# ## What there is
#
# `list_architectures` takes a pattern, `describe` prints an architecture's classes, fields and paper, `cite` the BibTeX.

# %%
ext.list_architectures()

# %%
print(ext.describe("hierarchical_topk"))

# %%
print(ext.cite("kron"))

# %% [markdown]
# ## Training three in one pass
#
# `MultiSAETrainingRunner` is SAELens' own. It runs the language model once for any mixture of architectures: here SAELens'
# TopK, and two of ours. `LanguageModelSAETrainingRunner` trains one, with the same configurations in its `sae=`.
#
# One thing needs a word, because the run is short. SAELens starts `b_dec` at zero, and the activations' mean is large: an
# SAE that has to find it first spends its latents on it. So `b_dec` begins at the mean of a first batch.

# %%
cfg = MultiSAETrainingRunnerConfig(
    saes={
        "topk": TopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=32),
        "budgets": ext.HierarchicalTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=32),
        "pairs": ext.KronTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=32, base_dim=2, extension_dim=4),
    },
    hook_names=HOOK,
    model_name=model.cfg.model_name,
    model_class_name=MODEL_CLASS,
    dataset_path="embedded:encyclopedia",  # only noted: the text is given below
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
    sae.b_dec.data = mean.clone()
_ = runner.run()

# %% [markdown]
# ## Loading by name
#
# A folder's `cfg.json` names the architecture, and `SAE.load_from_disk` picks the class. A HierarchicalTopK comes back as
# SAELens' own `TopKSAE`: whoever you give it to does not need this package. Only `KronSAE` is a new class; its encoder is
# smaller.

# %%
saes = {name: SAE.load_from_disk(f"output/{name}", device=DEVICE) for name in cfg.saes}
pd.DataFrame(
    [
        {
            "folder": name,
            "trained as": sae.cfg.metadata.training_architecture or sae.cfg.architecture(),
            "loaded as": type(sae).__name__,
            "encoder parameters": sae.W_enc.numel(),
            "decoder parameters": sae.W_dec.numel(),
        }
        for name, sae in saes.items()
    ]
)

# %% [markdown]
# `ext.load_sae` loads the same folders and says in a sentence what is wrong with one. Give it a folder without an SAE:

# %%
try:
    ext.load_sae(".")
except (OSError, ValueError) as error:
    print(error)

# %% [markdown]
# ## How good are they?
#
# `run_evals` is SAELens'. `ce_loss_score` is 1 if splicing the SAE into the model costs nothing and 0 if it costs as much as
# zeros would. Expect explained variances from 0.65 to 0.73 and scores from 0.90 to 0.95, little between the three: these are few
# tokens. What they are like after more is in the docs.

# %%
text = ext.embedded_texts("encyclopedia", split="test").to_dataset().shuffle(seed=0)
evaluation = EvalConfig(
    batch_size_prompts=4,
    n_eval_reconstruction_batches=1,
    n_eval_sparsity_variance_batches=1 if SMALL else 4,
    compute_ce_loss=True,
    compute_l2_norms=False,
    compute_sparsity_metrics=True,
    compute_variance_metrics=True,
)
rows = []
for name, sae in saes.items():
    store = ActivationsStore.from_sae(model, sae, text)  # a new store: the same tokens for each
    metrics, _ = run_evals(sae, store, model, ActivationScaler(), evaluation, exclude_special_tokens=SPECIAL)
    rows.append(
        {
            "SAE": name,
            "explained variance": metrics["reconstruction_quality"]["explained_variance"],
            "ce_loss_score": metrics["model_performance_preservation"]["ce_loss_score"],
            "L0": metrics["sparsity"]["l0"],
        }
    )
pd.DataFrame(rows).round(3)

# %% [markdown]
# ## In the model
#
# They sit on a hook as any SAE does. With `use_error_term=True` the part an SAE misses is added back, so the text is the
# model's own until you intervene on a latent; without it the model sees the reconstruction alone.

# %%
prompt = "The Danube rises in the Black Forest and flows"
settings = {"max_new_tokens": 5 if SMALL else 20, "do_sample": False, "verbose": False}
print(model.generate(prompt, **settings))
for use_error_term in (True, False):
    with model.saes([saes["pairs"]], use_error_term=use_error_term):
        print(f"\n--- use_error_term={use_error_term}\n{model.generate(prompt, **settings)}")

# %% [markdown]
# And their latents at a token. `encode_sparse` gives what is kept, largest first, without making the dense vector.

# %%
_, cache = model.run_with_cache(prompt, names_filter=[HOOK])
x = cache[HOOK][0, -1].float()
with torch.no_grad():
    values, latents = saes["pairs"].encode_sparse(x)
pd.DataFrame({"latent": latents[:5].tolist(), "value": values[:5].tolist()}).round(2)

# %% [markdown]
# ## Where to go on
#
# - [02](02_every_budget.py): what a HierarchicalTopK does that the TopK above cannot.
# - [03](03_inside_kron.py): the pairs that a Kron's latents are.
# - [04](04_augment.py): teach an SAE you have a new domain.
# - `examples/` holds each of these as a script to copy.
