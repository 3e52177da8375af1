"""Train a KronSAE, load it by name, and take its latents apart.

Every latent of a KronSAE is a pair: it fires where its base element and its extension element are both on. The script
prints what that saves in the encoder, and which pairs stand behind the strongest latents of one token.

Takes about two minutes on two cores. SAE_LENS_EXT_SMALL=1 makes it a run of seconds whose numbers mean nothing.
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
from sae_lens.evals import ExplainedVarianceCalculator

from sae_lens_ext import KronTrainingSAEConfig, embedded_texts, load_embedded_model

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
TRAINING_TOKENS = 4_096 if SMALL else 200_000
D_SAE = 256 if SMALL else 2048
OUTPUT = "output/kron"
HOOK = "blocks.10.hook_out"  # the residual stream after layer 10

model = load_embedded_model("bridge")
training_text = embedded_texts("encyclopedia", split="train").to_dataset().shuffle(seed=0)
held_out_text = embedded_texts("encyclopedia", split="test").to_dataset().shuffle(seed=0)

cfg = LanguageModelSAERunnerConfig(
    sae=KronTrainingSAEConfig(d_in=576, d_sae=D_SAE, k=32, base_dim=2, extension_dim=4),
    model_name=model.cfg.model_name,
    model_class_name="TransformerBridge",
    hook_name=HOOK,
    dataset_path="embedded:encyclopedia",
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
    exclude_special_tokens=[0],
    n_batches_for_norm_estimate=10,
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
h, m, n = sae.n_heads, sae.cfg.base_dim, sae.cfg.extension_dim
dense = sae.cfg.d_in * sae.cfg.d_sae
print(
    f"\nloaded {type(sae).__name__}: {h} heads of {m} · {n} pairs = {sae.cfg.d_sae} latents, k = {sae.cfg.k}"
)
print(f"encoder {sae.W_enc.numel():,} parameters, {sae.W_enc.numel() / dense:.0%} of a TopK SAE's {dense:,}")
print(f"decoder {sae.W_dec.numel():,} parameters, the same as a TopK SAE's")

store = ActivationsStore.from_sae(model, sae, held_out_text)
activations = torch.cat([store.get_filtered_llm_batch() for _ in range(1 if SMALL else 8)])  # [N, 576]
variance = ExplainedVarianceCalculator()
with torch.no_grad():
    for x in activations.split(512):
        variance.add_batch(sae(x), x)
print(f"explained variance on {len(activations):,} held-out tokens: {variance.compute():.3f}")

text = "The Danube rises in the Black Forest and flows into the Black Sea."
_, cache = model.run_with_cache(text, names_filter=[HOOK])
position = -2  # " Sea"
x = cache[HOOK][0, position]
with torch.no_grad():
    values, latents = sae.encode_sparse(x)  # sorted by value, descending
    base, extension = sae.pre_latents(x)  # [h, m] and [h, n], before rectification
head, i, j = torch.unravel_index(latents, (h, m, n))  # the flat index is ((head · m) + i) · n + j

print(
    f"\nstrongest latents at {model.to_str_tokens(text)[position]!r}: a latent is the root of base · extension"
)
for r in range(5):
    u, v = base[head[r], i[r]].item(), extension[head[r], j[r]].item()
    print(
        f"  latent {latents[r].item():>5} = head {head[r].item():>3}, base {i[r].item()} · extension {j[r].item()}:"
        f"  sqrt({u:.2f} · {v:.2f}) = {values[r].item():.2f}"
    )
on = ((base > 0).sum().item(), (extension > 0).sum().item())
print(f"on at this token: {on[0]} of {h * m} base elements, {on[1]} of {h * n} extension elements")
