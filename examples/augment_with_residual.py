"""Teach an SAE a domain it is blind to, without touching it: residual SAEs.

A base SAE (BatchTopK) learns an encyclopedia. A residual SAE then learns what the base misses on Python source code.
Stacked, the two are one SAE whose domains are switched on and off; `to_native()` makes one ordinary JumpReLU SAE of
them. Explained variance is printed on both texts, because better code must not mean worse prose.

Takes about four minutes on two cores. SAE_LENS_EXT_SMALL=1 makes it a run of seconds whose numbers mean nothing.
"""

import os
from typing import Any

import torch
from sae_lens import (
    SAE,
    ActivationsStore,
    BatchTopKTrainingSAEConfig,
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
)
from sae_lens.evals import ExplainedVarianceCalculator

from sae_lens_ext import (
    ResidualStackSAE,
    ResidualTrainingSAE,
    ResidualTrainingSAEConfig,
    embedded_texts,
    load_embedded_model,
)

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
TRAINING_TOKENS = 4_096 if SMALL else 200_000
D_SAE, D_RESIDUAL = (256, 64) if SMALL else (2048, 1024)
DOMAINS = ("encyclopedia", "python_source")

model = load_embedded_model("bridge")


def train(sae_cfg: Any, text: str, output_path: str) -> SAE[Any]:
    """Train an SAE on a text of that name and load what was saved."""
    cfg = LanguageModelSAERunnerConfig(
        sae=sae_cfg,
        model_name=model.cfg.model_name,
        model_class_name="TransformerBridge",
        hook_name="blocks.10.hook_out",  # base and residual must read the same hook
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
        exclude_special_tokens=[0],
        n_batches_for_norm_estimate=10,
        checkpoint_path=None,
        output_path=output_path,
        logger=LoggingConfig(log_to_wandb=False),
    )
    torch.manual_seed(0)  # SAELens' runners do not read cfg.seed
    dataset = embedded_texts(text, split="train").to_dataset().shuffle(seed=0)
    runner = LanguageModelSAETrainingRunner(cfg, override_model=model, override_dataset=dataset)
    if not isinstance(runner.sae, ResidualTrainingSAE):  # which has no b_dec
        # SAELens starts b_dec at 0. These activations have a large mean, and a short run that starts there learns more.
        runner.sae.b_dec.data = runner.activations_store.get_filtered_llm_batch().mean(dim=0)
    runner.run()
    return SAE.load_from_disk(output_path)


@torch.no_grad()
def explained_variance(sae: SAE[Any], activations: torch.Tensor) -> float:
    """SAELens' explained variance of an SAE on activations [N, d_in]."""
    calculator = ExplainedVarianceCalculator()
    for x in activations.split(512):
        calculator.add_batch(sae(x), x)
    return calculator.compute()


# A BatchTopK is saved with a threshold, a running mean that SAELens moves by topk_threshold_lr a step. The default,
# 0.01, needs some hundred steps: in a run as short as this one the saved SAE would fire far more than k latents.
base_cfg = BatchTopKTrainingSAEConfig(d_in=576, d_sae=D_SAE, k=32, topk_threshold_lr=0.1)
base = train(base_cfg, "encyclopedia", "output/base")

residual_cfg = ResidualTrainingSAEConfig(
    d_in=576, d_sae=D_RESIDUAL, k=5, topk_threshold_lr=0.1, base_path="output/base"
)
residual = train(residual_cfg, "python_source", "output/python_residual")

stack = ResidualStackSAE.from_saes(base, {"python": residual})
print(f"\n{stack.cfg.d_sae} latents; the first of the domain 'python' is {stack.flat_index('python', 0)}")

held_out = {}
for text in DOMAINS:
    dataset = embedded_texts(text, split="test").to_dataset().shuffle(seed=0)
    store = ActivationsStore.from_sae(model, base, dataset)
    held_out[text] = torch.cat([store.get_filtered_llm_batch() for _ in range(1 if SMALL else 8)])

print(f"\n{'explained variance':<22}" + "".join(f"{text:>15}" for text in DOMAINS))
for active in ((), ("python",)):
    stack.active = active
    numbers = [explained_variance(stack, held_out[text]) for text in DOMAINS]
    print(f"{'active = ' + repr(active):<22}" + "".join(f"{number:>15.3f}" for number in numbers))

# One ordinary SAELens SAE of the base and the active domains; whoever loads it does not need this package.
native = stack.to_native()
native.save_model("output/native")
x = held_out["python_source"][:256]
with torch.no_grad():
    difference = (native(x) - stack(x)).abs().max().item()
print(
    f"\nto_native(): {type(native).__name__}, {native.cfg.d_sae} latents, largest difference {difference:.1e}"
)
