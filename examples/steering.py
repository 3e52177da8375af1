"""Steer a language model: with a vector, with an SAE's features, at chosen tokens, in generation.

A vector is made from a contrast of two texts. Features are those of an SAE trained here for a minute. What is shown: the same prompt at
several strengths, in batches with padding, with a key-value cache or without, in the prompt alone, and nested.

On the command line: `sae-lens-ext steer FOLDER --feature 12 --strengths 0,0.1,0.2,0.4 --prompt "The town"`.
Takes two minutes on two cores. SAE_LENS_EXT_SMALL=1 makes it a run of seconds whose numbers mean nothing.
"""

import os

import torch
from sae_lens import (
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
    TopKTrainingSAEConfig,
)

from sae_lens_ext import (
    AblateFeature,
    AddFeature,
    AddVector,
    ClampFeature,
    ScaleFeature,
    embedded_texts,
    load_embedded_model,
    steer,
    top_activations,
)
from sae_lens_ext.language_model import Site, read_activations

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
HOOK = "blocks.8.hook_out"
NEW_TOKENS = 3 if SMALL else 24
TRAINING_TOKENS = 4_096 if SMALL else 200_000

model = load_embedded_model("bridge")
prompt = "The first thing I saw was"


def write(prompts: str | list[str], **options) -> str | list[str]:
    """Continue prompts, always with the likeliest token."""
    return model.generate(prompts, max_new_tokens=NEW_TOKENS, do_sample=False, verbose=False, **options)


# A vector: what the stream has more of in one text than in another.
recipes, laws = (embedded_texts(name, split="test")[: 4 if SMALL else 40] for name in ("recipes", "kjv"))


def mean_activation(documents) -> torch.Tensor:
    """Give the mean of the stream over the tokens of documents, each counting the same."""
    tokens = [model.to_tokens(document[:400]) for document in documents]
    return torch.stack([read_activations(model, t, Site(HOOK))[0, 1:].mean(dim=0) for t in tokens]).mean(
        dim=0
    )


vector = mean_activation(recipes) - mean_activation(laws)
for strength in (0.0, 0.5, 1.0, 2.0):
    with steer(model, AddVector(HOOK, vector, strength)):
        print(f"{strength:4}: {write(prompt)!r}")

# Strength relative to each token's norm; in the prompt alone; from the last token of the prompt on; without a key-value cache.
with steer(model, AddVector(HOOK, vector / vector.norm(), 0.3, relative=True)):
    print("relative:", repr(write(prompt)))
with steer(model, AddVector(HOOK, vector, phases=("prompt",))):
    print("prompt alone:", repr(write(prompt)))
with steer(model, AddVector(HOOK, vector, positions=slice(-1, None))):
    cached = write(prompt)
    assert cached == write(prompt, use_past_kv_cache=False)
    print("from the last token on:", repr(cached))

# Features of an SAE.
cfg = LanguageModelSAERunnerConfig(
    sae=TopKTrainingSAEConfig(d_in=576, d_sae=64 if SMALL else 1024, k=8 if SMALL else 32),
    model_name=model.cfg.model_name,
    model_class_name="TransformerBridge",
    hook_name=HOOK,
    dataset_path="embedded:encyclopedia",
    training_tokens=TRAINING_TOKENS,
    train_batch_size_tokens=1024,
    store_batch_size_prompts=8,
    n_batches_in_buffer=16,
    lr=3.2e-3,
    autocast_lm=True,
    exclude_special_tokens=[0],
    n_eval_batches=0,
    output_path="output/steering_sae",
    checkpoint_path=None,
    logger=LoggingConfig(log_to_wandb=False),
)
texts = {split: embedded_texts("encyclopedia", split=split) for split in ("train", "test")}
sae = LanguageModelSAETrainingRunner(
    cfg, override_model=model, override_dataset=texts["train"].to_dataset()
).run()
tops = top_activations(
    model, {HOOK: sae}, texts["test"], max_tokens=1_024 if SMALL else 32_768, autocast=True
)
# One that fires, but not everywhere.
index = min(range(sae.cfg.d_sae), key=lambda i: abs(tops.firing_rate(HOOK, i) - 0.005))
print(f"Feature {index} fires on", [token for token, _ in tops.tokens(HOOK, index, 8)])
for intervention in (
    AddFeature(sae, index, strength=40.0),
    ClampFeature(sae, index, value=40.0),
    ScaleFeature(sae, index, factor=-2.0),
    AblateFeature(sae, index),
    AddFeature(sae, index, strength=20.0) + 0.5 * AddVector(HOOK, vector),
):
    with steer(model, intervention):
        print(f"{intervention}: {write(prompt)!r}")
