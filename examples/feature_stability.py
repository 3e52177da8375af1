"""Which features come back when an SAE is trained again? Feature stability over seeds.

Four seeds of TopK and of HierarchicalTopK are trained on one forward pass of the language model; only their initial weights
differ. Each latent of each SAE gets p̂, the share of the other seeds that have its feature. Then the question is what the two
kinds of latents do: what the reconstruction loses when stable or unstable ones are silenced, and whether the unstable ones at
least span the same subspace in every seed. At last the stable features of some seeds are pooled into one SAE.

On the command line: `sae-lens-ext train --seeds 0,1,2,3 ...`, then `sae-lens-ext stability FOLDER`.
Takes some minutes on two cores. SAE_LENS_EXT_SMALL=1 makes it a run of seconds whose numbers mean nothing.
"""

import os

from sae_lens import LoggingConfig, MultiSAETrainingRunnerConfig, TopKTrainingSAEConfig

from sae_lens_ext import (
    HierarchicalTopKTrainingSAEConfig,
    embedded_texts,
    feature_stability,
    load_embedded_model,
    masking_curve,
    measure_firing_rates,
    pool_features,
    stability_probe,
    subspace_report,
    train_seeds,
)

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
TRAINING_TOKENS = 4_096 if SMALL else 500_000
D_SAE, K = (64, 8) if SMALL else (1024, 32)
EVAL_TOKENS = 1_024 if SMALL else 65_536
THRESHOLD = 0.2 if SMALL else 0.7  # after a few steps no two latents are as similar as that
SEEDS = range(4)

model = load_embedded_model("bridge")
training, held_out = (embedded_texts("encyclopedia", split=split) for split in ("train", "test"))

size = {"d_in": 576, "d_sae": D_SAE, "k": K}
cfg = MultiSAETrainingRunnerConfig(
    saes={
        "topk": TopKTrainingSAEConfig(**size),
        "hierarchical_topk": HierarchicalTopKTrainingSAEConfig(**size),
    },
    hook_names="blocks.10.hook_out",
    model_name=model.cfg.model_name,
    model_class_name="TransformerBridge",
    dataset_path="embedded:encyclopedia",
    training_tokens=TRAINING_TOKENS,
    train_batch_size_tokens=1024,
    store_batch_size_prompts=8,
    n_batches_in_buffer=16 if SMALL else 64,
    lr=3.2e-3,
    lr_warm_up_steps=10,
    lr_decay_steps=TRAINING_TOKENS // 1024 // 5,
    autocast_lm=True,
    exclude_special_tokens=[0],
    n_checkpoints=0 if SMALL else 3,
    output_path="output/seeds",  # interrupted, the same call goes on from here
    seed=0,  # what the SAEs have in common: the order of the text
    logger=LoggingConfig(log_to_wandb=False),
)
trained = train_seeds(cfg, SEEDS, override_model=model, override_dataset=training.to_dataset())
topk, hierarchical = trained[: len(SEEDS)], trained[len(SEEDS) :]

# Latents that hardly ever fire keep the direction they began with. They must not count as unstable features.
for name, saes in (("TopK", topk), ("HierarchicalTopK", hierarchical)):
    rates = measure_firing_rates(model, saes, held_out, max_tokens=EVAL_TOKENS, autocast=True)
    report = feature_stability(
        saes, firing_rates=rates, threshold=THRESHOLD, min_firing_rate=0.0 if SMALL else None
    )
    print(f"\n{name}: {report}\n{report.summary().round(3).to_string(index=False)}")
    report.save(f"output/{name}.json")
    report.plot().write_html(f"output/{name}.html")

# What do they do? The reports of the loop's last round are of HierarchicalTopK.
curve = masking_curve(
    model,
    hierarchical[0],
    report,
    held_out,
    n_draws=2,
    max_tokens=EVAL_TOKENS // 4,
    max_ce_tokens=EVAL_TOKENS // 32,
    autocast=True,
)
print(f"\n{curve}\n{curve.summary().round(3).to_string(index=False)}")

# Where do they lie?
print(f"\n{subspace_report(hierarchical, report, n_draws=2 if SMALL else 10)}")
print(f"\n{stability_probe(hierarchical, report)}")

# p̂ must not be estimated on the seeds that are pooled: the other two are the references.
pooled = pool_features(topk[:2], D_SAE // 2, references=topk[2:], threshold=0.95 if SMALL else 0.7)
pooled.save_model("output/pooled")
print(f"\nPooled: {pooled.cfg.architecture()} with {pooled.cfg.d_sae} latents, an ordinary SAELens SAE")
