"""Train a HierarchicalTopK SAE, load it by name, and use it at every sparsity budget.

One SAE is trained for all budgets 1..64 at once, on layer 10 of the embedded model. It is saved as an ordinary `topk`,
loaded with `SAE.load_from_disk`, and measured on held-out documents at several k.

Takes about three minutes on two cores. SAE_LENS_EXT_SMALL=1 makes it a run of seconds whose numbers mean nothing.
"""

import os

import torch
from sae_lens import (
    SAE,
    ActivationsStore,
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
)

from sae_lens_ext import (
    HierarchicalTopKTrainingSAEConfig,
    budget_curve,
    embedded_texts,
    load_embedded_model,
    with_k,
)

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
TRAINING_TOKENS = 4_096 if SMALL else 200_000
D_SAE = 256 if SMALL else 2048
OUTPUT = "output/hierarchical_topk"

# Any model and any text that SAELens reads will do: leave out the two override_* arguments below and set model_name,
# model_class_name and dataset_path instead.
model = load_embedded_model("bridge")
training_text = embedded_texts("encyclopedia", split="train").to_dataset().shuffle(seed=0)
held_out_text = embedded_texts("encyclopedia", split="test").to_dataset().shuffle(seed=0)

cfg = LanguageModelSAERunnerConfig(
    sae=HierarchicalTopKTrainingSAEConfig(d_in=576, d_sae=D_SAE, k=64, budgets="all"),
    model_name=model.cfg.model_name,
    model_class_name="TransformerBridge",
    hook_name="blocks.10.hook_out",  # the residual stream after layer 10
    dataset_path="embedded:encyclopedia",
    context_size=128,
    training_tokens=TRAINING_TOKENS,
    train_batch_size_tokens=1024,
    store_batch_size_prompts=8,
    n_batches_in_buffer=16 if SMALL else 64,  # contexts of 128 tokens that are shuffled together
    lr=3e-3,
    lr_warm_up_steps=10,
    lr_decay_steps=TRAINING_TOKENS // 1024 // 5,
    dead_feature_window=50,  # steps; SAELens' 1000 is longer than this whole run
    autocast_lm=True,
    exclude_special_tokens=[0],
    n_batches_for_norm_estimate=10,  # only read if you set normalize_activations; the default is 1000
    checkpoint_path=None,
    output_path=OUTPUT,
    logger=LoggingConfig(log_to_wandb=False),
)
torch.manual_seed(0)  # SAELens' runners do not read cfg.seed
runner = LanguageModelSAETrainingRunner(cfg, override_model=model, override_dataset=training_text)
# SAELens starts b_dec at 0. These activations have a large mean, and a short run that starts there learns far more.
runner.sae.b_dec.data = runner.activations_store.get_filtered_llm_batch().mean(dim=0)
runner.run()

sae = SAE.load_from_disk(OUTPUT)
print(
    f"\nloaded {type(sae).__name__}, trained as {sae.cfg.metadata.training_architecture!r}, k = {sae.cfg.k}"
)

store = ActivationsStore.from_sae(model, sae, held_out_text)
activations = torch.cat([store.get_filtered_llm_batch() for _ in range(1 if SMALL else 8)])  # [N, 576]

curve = budget_curve(sae, activations, ks=[1, 2, 4, 8, 16, 32, 64])
print(curve)
print(curve.to_frame().round(3).to_string(index=False))

# The same weights at another budget, as an SAE of its own: give it to run_evals, run_with_saes, a dashboard.
for k in (4, 16, 64):
    small = with_k(sae, k)
    active = (small.encode(activations[:512]) > 0).sum(dim=-1).float().mean()
    print(f"with_k(sae, {k}): {active:.1f} latents per token")
