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
# # Which features come back?
#
# You train an SAE and find a feature. You train the same SAE again from another seed. Is the feature there?
#
# [Unstable Features, Reproducible Subspaces](https://arxiv.org/abs/2606.12138) asks this of every latent: **p̂** is the share of
# other seeds that have a decoder row with a cosine of at least 0.7 to its own. A latent with p̂ ≥ 0.95 is *stable*, one with
# p̂ ≤ 0.05 *unstable*. This notebook
#
# 1. looks at a ground truth where the answer is known,
# 2. trains seeds of two architectures on a language model, with one forward pass for all,
# 3. measures p̂, and what would be a false alarm,
# 4. silences stable and unstable latents,
# 5. asks whether the unstable ones at least lie in the same place,
# 6. pools the stable features of several seeds into one SAE.
#
# The command line does the middle part: `sae-lens-ext train --seeds 0,1,2,3 …`, `sae-lens-ext stability FOLDER`.

# %%
import os

import torch
from sae_lens import (
    HookedSAETransformer,
    LoggingConfig,
    MultiSAETrainingRunnerConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from sae_lens.util import temporary_seed

import sae_lens_ext as ext
from sae_lens_ext.language_model import Site, contexts, read_activations

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
SYNTHETIC_STEPS = 30 if SMALL else 800
TOKENS = 4_096 if SMALL else 100_000
D_SAE, K = (64, 8) if SMALL else (512, 32)
EVAL_TOKENS = 1_024 if SMALL else 16_384
THRESHOLD = 0.25 if SMALL else 0.7  # after a few steps no two latents are as similar as 0.7
FLOOR = 0.0 if SMALL else None
SEEDS = range(4)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# %% [markdown]
# ## A ground truth
#
# Half of the features point wherever they like. The other half, 64 of them, are crowded into 8 dimensions. An SAE can learn the
# first; of the second it can learn where they are, and not which they are.

# %%
truth = ext.LowRankFeatureModel(d_in=96, n_independent=64, n_low_rank=64, rank=8)


def train_on_truth(seed):
    with temporary_seed(seed):
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=96, d_sae=128, k=13))
    cfg = SAETrainerConfig(
        total_training_samples=SYNTHETIC_STEPS * 512,
        train_batch_size_samples=512,
        device="cpu",
        autocast=False,
        lr=1e-3,
        lr_end=0.0,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        lr_decay_steps=SYNTHETIC_STEPS // 5,
        n_restart_cycles=1,
        adam_beta1=0.9,
        adam_beta2=0.999,
        dead_feature_window=100,
        feature_sampling_window=1000,
        logger=LoggingConfig(log_to_wandb=False),
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
    )
    return SAETrainer(cfg=cfg, sae=sae, data_provider=truth.batches(512, seed=0)).fit()


toys = [train_on_truth(seed) for seed in SEEDS]
toy_report = ext.feature_stability(toys, threshold=THRESHOLD, show_progress=False)
recovery = truth.recovery(toys, toy_report)
recovery

# %% [markdown]
# p̂ of the independent features is near 1, their cosine to the truth, too. Those in the small subspace come back less, but lie
# in it with all their length. Mind the black lines: in 8 dimensions even random directions are similar.

# %%
recovery.plot()

# %% [markdown]
# ## Seeds of a real SAE
#
# `train_seeds` takes SAELens' configuration. `cfg.seed` decides what the SAEs have in common, `seeds` what they have not: here their
# initial weights. All read the same activations in the same order, from one forward pass of the model. Interrupted, the same
# call goes on where it was.
#
# The first of the two cells is the one to change for a model of the hub. SAEs that others have trained from several seeds go straight into
# `feature_stability`, as folders or as SAEs. Expect smaller shares of stable latents from gpt2 and Gemma 2 2B at the same number of
# tokens: with more dimensions to fill, an SAE is further from done.

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
BOS = model.tokenizer.bos_token_id

# %%
training, held_out = (ext.embedded_texts("encyclopedia", split=split) for split in ("train", "test"))

size = {"d_in": model.cfg.d_model, "d_sae": D_SAE, "k": K}
cfg = MultiSAETrainingRunnerConfig(
    saes={
        "topk": TopKTrainingSAEConfig(**size),
        "hierarchical_topk": ext.HierarchicalTopKTrainingSAEConfig(**size),
    },
    hook_names=HOOK,
    model_name=model.cfg.model_name,
    model_class_name=MODEL_CLASS,
    dataset_path="embedded:encyclopedia",
    training_tokens=TOKENS,
    train_batch_size_tokens=1024,
    store_batch_size_prompts=8,
    n_batches_in_buffer=16 if SMALL else 64,
    lr=3.2e-3,
    lr_warm_up_steps=10,
    lr_decay_steps=TOKENS // 1024 // 5,
    autocast_lm=True,
    exclude_special_tokens=[BOS],
    device=DEVICE,
    output_path="seeds",
    seed=0,
    logger=LoggingConfig(log_to_wandb=False),
)
trained = ext.train_seeds(cfg, SEEDS, override_model=model, override_dataset=training.to_dataset())
topk, hierarchical = trained[: len(SEEDS)], trained[len(SEEDS) :]
[(sae.cfg.metadata.initialisation_seed, sae.cfg.metadata.data_order_seed) for sae in trained]

# %% [markdown]
# ## p̂
#
# Three things must be right before 0.7 means anything:
#
# - a latent that hardly ever fires keeps the direction it began with, and would pass for unstable: `measure_firing_rates` finds
#   these, and they do not count;
# - what would chance give? The same comparison with every decoder turned at random is beside every number;
# - the seeds must differ where it matters. An SAE given twice is an error.

# %%
rates = ext.measure_firing_rates(
    model, hierarchical, held_out, max_tokens=EVAL_TOKENS, autocast=True, show_progress=False
)
report = ext.feature_stability(
    hierarchical, firing_rates=rates, threshold=THRESHOLD, min_firing_rate=FLOOR, show_progress=False
)
report

# %%
report.plot()

# %% [markdown]
# And TopK, at the same number of latents, k and tokens:

# %%
topk_rates = ext.measure_firing_rates(
    model, topk, held_out, max_tokens=EVAL_TOKENS, autocast=True, show_progress=False
)
topk_report = ext.feature_stability(
    topk, firing_rates=topk_rates, threshold=THRESHOLD, min_firing_rate=FLOOR, show_progress=False
)
topk_report.summary()

# %% [markdown]
# `report.labels(anchor)` names the class of each latent, `report.members("stable", anchor)` gives their indices, and
# `report.save("report.json")` keeps all of it.
#
# ## What do they do?
#
# Silence random sets of stable and of unstable latents and see what the reconstruction loses. The third group is the control: stable
# latents that fire as rarely as the unstable ones.

# %%
curve = ext.masking_curve(
    model,
    hierarchical[0],
    report,
    held_out,
    n_draws=2,
    max_tokens=EVAL_TOKENS // 4,
    max_ce_tokens=EVAL_TOKENS // 64,
    autocast=True,
    show_progress=False,
)
curve

# %%
curve.plot()

# %% [markdown]
# ## Where do they lie?
#
# The rank-r subspace of one seed's unstable latents, and how much of the other seeds' unstable latents lies in it. Compare with
# the null: random directions.

# %%
subspaces = ext.subspace_report(hierarchical, report, n_draws=2 if SMALL else 5, show_progress=False)
subspaces.plot()

# %% [markdown]
# Can one tell from a decoder row alone, having seen another seed's, whether the latent is unstable? Compare F1 with what "always
# unstable" gives: where most latents are unstable, that is a high number for nothing.

# %%
ext.stability_probe(hierarchical, report, show_progress=False)

# %% [markdown]
# ## A more stable SAE?
#
# Pool the features of two seeds, those first that the other two seeds have as well. The result is an ordinary SAELens SAE. Its
# latents fire as they did in their own SAEs, so they have never learnt to work together: retrain the encoder, with the decoder frozen.

# %%
pooled = ext.pool_features(topk[:2], D_SAE // 2, references=topk[2:], threshold=0.95 if SMALL else 0.7)

packed = contexts(training[: 400 if SMALL else None], model.tokenizer, context_size=128)
tokens = torch.as_tensor(packed.with_format("numpy")[: 16 if SMALL else 256]["input_ids"]).long().to(DEVICE)
site = Site(HOOK)
activations = torch.cat(
    [read_activations(model, batch, site, autocast=True)[batch != BOS] for batch in tokens.split(16)]
)
retrained = ext.retrain_encoder(pooled, activations, n_tokens=1_024 if SMALL else 60_000, lr=3e-3)
ext.evaluate_domains(
    model,
    {"a single seed": topk[0], "pooled, half as wide": pooled, "its encoder retrained": retrained},
    {"encyclopedia": held_out},
    max_tokens=EVAL_TOKENS // 8,
    autocast=True,
    show_progress=False,
)

# %% [markdown]
# How much better these get with more seeds and tokens, what of the paper shows at this size and what does not:
# [docs/feature_stability.md](../docs/feature_stability.md).
