"""Teach an SAE a domain it is blind to, without touching it: residual SAEs.

A base SAE (BatchTopK) learns an encyclopedia. A residual SAE then learns what the base misses on Python source code, with
a tenth of encyclopedia mixed in, so that it learns to leave prose alone as well. Stacked, the two are one SAE whose domains
are switched on and off; `to_native()` makes one ordinary JumpReLU SAE of them. Both texts are measured, because better
code must not mean worse prose, and the new latents are shown beside the base's most similar ones.

The command `sae-lens-ext augment output/base --domain python=embedded:python_source` does all but the first step.
Takes about four minutes on two cores. SAE_LENS_EXT_SMALL=1 makes it a run of seconds whose numbers mean nothing.
"""

import os
from typing import Any

import torch
from datasets import Dataset
from sae_lens import (
    SAE,
    BatchTopKTrainingSAEConfig,
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
)

from sae_lens_ext import (
    ResidualStackSAE,
    ResidualTrainingSAE,
    ResidualTrainingSAEConfig,
    compare_new_latents,
    embedded_texts,
    evaluate_domains,
    load_embedded_model,
    mix_datasets,
)
from sae_lens_ext.language_model import contexts

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
TRAINING_TOKENS = 4_096 if SMALL else 200_000
D_SAE, D_RESIDUAL = (256, 64) if SMALL else (2048, 1024)
CONTEXT_SIZE = 128

model = load_embedded_model("bridge")


def packed(text: str) -> Dataset:
    """Pack the training documents of an embedded text into contexts of tokens."""
    documents = embedded_texts(text, split="train")
    return contexts(documents[:400] if SMALL else documents, model.tokenizer, context_size=CONTEXT_SIZE)


def train(sae_cfg: Any, dataset: Dataset, output_path: str) -> SAE[Any]:
    """Train an SAE on contexts and load what was saved."""
    cfg = LanguageModelSAERunnerConfig(
        sae=sae_cfg,
        model_name=model.cfg.model_name,
        model_class_name="TransformerBridge",
        hook_name="blocks.10.hook_out",  # base and residual must read the same hook
        context_size=CONTEXT_SIZE,
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
        output_path=output_path,
        logger=LoggingConfig(log_to_wandb=False),
    )
    # SAELens' runners do not read cfg.seed. With one seed for both, the residual would start from the base's own first rows.
    torch.manual_seed(1 if isinstance(sae_cfg, ResidualTrainingSAEConfig) else 0)
    runner = LanguageModelSAETrainingRunner(cfg, override_model=model, override_dataset=dataset)
    if not isinstance(runner.sae, ResidualTrainingSAE):  # which has no b_dec
        # SAELens starts b_dec at 0. These activations have a large mean, and a short run that starts there learns more.
        runner.sae.b_dec.data = runner.activations_store.get_filtered_llm_batch().mean(dim=0)
    runner.run()
    return SAE.load_from_disk(output_path)


prose, code = packed("encyclopedia"), packed("python_source")

# A BatchTopK is saved with a threshold, a running mean that SAELens moves by topk_threshold_lr a step. The default,
# 0.01, needs some hundred steps: in a run as short as this one the saved SAE would fire far more than k latents.
base_cfg = BatchTopKTrainingSAEConfig(d_in=576, d_sae=D_SAE, k=32, topk_threshold_lr=0.1)
base = train(base_cfg, prose, "output/base")

residual_cfg = ResidualTrainingSAEConfig(
    d_in=576, d_sae=D_RESIDUAL, k=5, topk_threshold_lr=0.1, base_path="output/base"
)
residual = train(residual_cfg, mix_datasets(code, prose, general_fraction=0.1), "output/python_residual")

stack = ResidualStackSAE.from_saes(base, {"python": residual})
print(f"\n{stack.cfg.d_sae} latents; the first of the domain 'python' is {stack.flat_index('python', 0)}")

held_out = {
    "python": embedded_texts("python_source", split="test"),
    "prose": embedded_texts("encyclopedia", split="test"),
}
tokens = 1_024 if SMALL else 8_192
report = evaluate_domains(
    model,
    {"base": stack.with_active(()), "with python": stack},
    held_out,
    max_tokens=tokens,
    autocast=True,
)
print(f"\n{report.to_frame().round(3).to_string(index=False)}")
print(f"\n{report.changes('base').round(3).to_string(index=False)}")
report.save("output/domains.json")

latents = compare_new_latents(model, stack, held_out, n_latents=10, max_tokens=tokens, autocast=True)
latents.write_html("output/latents.html")
columns = ["latent", "top_token", "base_latent", "base_top_token", "cosine"]
print(f"\n{latents.to_frame()[columns].round(2).to_string(index=False)}\n\nIn full: output/latents.html")

# One ordinary SAELens SAE of the base and the active domains; whoever loads it does not need this package.
native = stack.to_native()
native.save_model("output/native")
x = torch.randn(256, 576)
with torch.no_grad():
    difference = (native(x) - stack(x)).abs().max().item()
print(
    f"\nto_native(): {type(native).__name__}, {native.cfg.d_sae} latents, largest difference {difference:.1e}"
)
