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
# # Steering
#
# `steer(model, ...)` changes a model's activations while a block lasts: in forward passes, in `run_with_cache`, and while the model
# generates, with a key-value cache exactly as without. It works on `HookedTransformer`, `TransformerBridge` and their SAE versions alike, is
# always undone, and an intervention that acted on no token is an error.
#
# | | what it adds to the activation h of a token |
# |---|---|
# | `AddVector(hook, v, s)` | s · v, or with `relative=True` s · ‖h‖ · v/‖v‖ |
# | `AddFeature(sae, i, s)` | s · d, the feature's direction, active or not |
# | `ScaleFeature(sae, i, r)` | (r − 1) · a · d, with the live activation a |
# | `ClampFeature(sae, i, x)` | (x − a) · d |
# | `AblateFeature(sae, i)` | −a · d |
#
# None of them replaces h by the SAE's reconstruction: what the SAE does not explain stays.

# %%
import os

import pandas as pd
import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAEConfig,
    HookedSAETransformer,
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
)

import sae_lens_ext as ext
from sae_lens_ext.language_model import Site, read_activations

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
TOKENS, D_SAE = (4_096, 256) if SMALL else (100_000, 1024)
NEW_TOKENS = 3 if SMALL else 24
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# %% [markdown]
# ## The model, and an SAE
#
# The cell to change. On the hub's models the SAE is one that many people know; the embedded model's is trained below. Expect other
# sentences, and on Gemma 2 2B better ones. A strength is in units of the stream's own activations, whose length is another in each
# model, so the sweeps below go by multiples of what the vector or the feature is in the text itself.

# %%
MODEL = "embedded"  # or "gpt2", or "gemma-2-2b"

if MODEL == "embedded":
    model = ext.load_embedded_model("bridge", device=DEVICE)
    HOOK, PRETRAINED = "blocks.8.hook_out", None
elif MODEL == "gpt2":
    model = HookedSAETransformer.from_pretrained("gpt2", device=DEVICE)
    HOOK, PRETRAINED = "blocks.8.hook_resid_pre", ("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
elif MODEL == "gemma-2-2b":
    model = HookedSAETransformer.from_pretrained_no_processing("gemma-2-2b", device=DEVICE, dtype="bfloat16")
    HOOK = "blocks.12.hook_resid_post"
    PRETRAINED = ("gemma-scope-2b-pt-res-canonical", "layer_12/width_16k/canonical")


def write(prompts, **options):
    """Continue prompts with the likeliest token each time."""
    return model.generate(prompts, max_new_tokens=NEW_TOKENS, do_sample=False, verbose=False, **options)


# %% [markdown]
# ## A vector
#
# What does the stream hold more of in recipes than in the King James Bible?


# %%
def mean_activation(name):
    """Give the mean of the stream over documents."""
    documents = ext.embedded_texts(name, split="test")[: 4 if SMALL else 20]
    tokens = [model.to_tokens(document[:400]) for document in documents]
    return torch.stack([read_activations(model, t, Site(HOOK))[0, 1:].mean(dim=0) for t in tokens]).mean(
        dim=0
    )


vector = mean_activation("recipes") - mean_activation("kjv")
for strength in (-1.0, 0.0, 0.5, 1.0, 2.0):
    with ext.steer(model, ext.AddVector(HOOK, vector, strength)):
        print(strength, repr(write("The first thing I saw was")))

# %% [markdown]
# ## Where, and when
#
# Positions are absolute: 0 is the first token of the sequence, also when a cache feeds the model one token at a time; −1 is the last
# token of the prompt. `phases` chooses between the prompt and what is generated.

# %%
for name, where in {
    "everywhere": {},
    "in the prompt": {"phases": ("prompt",)},
    "in what is generated": {"phases": ("generation",)},
    "at the prompt's last token": {"positions": -1},
    "from there on": {"positions": slice(-1, None)},
}.items():
    with ext.steer(model, ext.AddVector(HOOK, vector, **where)):
        with_cache = write("The first thing I saw was")
        without = write("The first thing I saw was", use_past_kv_cache=False)
    print(f"{name}: {with_cache!r}", "the same without a cache" if with_cache == without else "NOT the same")

# %% [markdown]
# An intervention that never acts is an error, and the model is as it was.

# %%
try:
    with ext.steer(model, ext.AddVector(HOOK, vector, positions=5_000)):
        write("Too short for that")
except RuntimeError as error:
    print(error)

# %% [markdown]
# ## A feature
#
# The SAE: fetched, or trained here on recipes and encyclopedia for half a minute.


# %%
def train_one():
    cfg = LanguageModelSAERunnerConfig(
        sae=BatchTopKTrainingSAEConfig(d_in=model.cfg.d_model, d_sae=D_SAE, k=32, topk_threshold_lr=0.05),
        model_name=model.cfg.model_name,
        model_class_name="TransformerBridge",
        hook_name=HOOK,
        dataset_path="embedded:recipes and encyclopedia",
        context_size=128,
        training_tokens=TOKENS,
        train_batch_size_tokens=1024,
        store_batch_size_prompts=8,
        n_batches_in_buffer=16 if SMALL else 64,
        lr=3e-3,
        lr_warm_up_steps=10,
        lr_decay_steps=TOKENS // 1024 // 5,
        autocast_lm=True,
        exclude_special_tokens=[model.tokenizer.bos_token_id],
        device=DEVICE,
        checkpoint_path=None,
        output_path="output/sae",
        logger=LoggingConfig(log_to_wandb=False),
    )
    torch.manual_seed(0)
    both = ext.mix_datasets(
        *(ext.embedded_texts(name, split="train").to_dataset() for name in ("encyclopedia", "recipes")),
        general_fraction=0.5,
    )
    LanguageModelSAETrainingRunner(cfg, override_model=model, override_dataset=both).run()
    return SAE.load_from_disk("output/sae", device=DEVICE)


sae = SAE.from_pretrained(*PRETRAINED, device=DEVICE) if PRETRAINED else train_one()

# %% [markdown]
# Which of its features are most of recipes? Those whose mean activation differs most between the two texts.


# %%
def activations_of(name):
    """Give the stream at the tokens of a few documents, [tokens, d_model]."""
    documents = ext.embedded_texts(name, split="test")[: 4 if SMALL else 30]
    tokens = [model.to_tokens(document[:400]) for document in documents]
    return torch.cat([read_activations(model, t, Site(HOOK))[0, 1:] for t in tokens]).float()


with torch.no_grad():
    recipes, bible = (sae.encode(activations_of(name)) for name in ("recipes", "kjv"))
difference = recipes.mean(dim=0) - bible.mean(dim=0)
features = difference.topk(3).indices.tolist()
lens = ext.logit_lens(model, sae.W_dec[features], top_k=6)
pd.DataFrame(
    {
        "feature": features,
        "mean in recipes": recipes[:, features].mean(dim=0).tolist(),
        "mean in the Bible": bible[:, features].mean(dim=0).tolist(),
        "largest": recipes[:, features].amax(dim=0).tolist(),
    }
).round(2)

# %% [markdown]
# `AddFeature` pushes along the feature's direction, whether it is on or not. In units of its largest activation in recipes:

# %%
feature = features[0]
largest = float(recipes[:, feature].max())
for times in (0.0, 1.0, 2.0, 4.0):
    with ext.steer(model, ext.AddFeature(sae, feature, times * largest)):
        print(f"{times} x", repr(write("The first thing I saw was")))

# %% [markdown]
# Interventions add up with `+` and are scaled with `*`. Here the three features are clamped on together, and then taken away from
# a text that has them.

# %%
on = sum(
    (ext.ClampFeature(sae, f, 2 * float(recipes[:, f].max())) for f in features[1:]),
    ext.ClampFeature(sae, feature, 2 * largest),
)
off = (
    ext.AblateFeature(sae, feature)
    + ext.AblateFeature(sae, features[1])
    + ext.AblateFeature(sae, features[2])
)
with ext.steer(model, on):
    print("clamped on:", repr(write("The first thing I saw was")))
recipe = "Heat the oil in a large pan over medium heat. Add the onions and"
print("left alone:", repr(write(recipe)))
with ext.steer(model, off):
    print("ablated:   ", repr(write(recipe)))

# %% [markdown]
# Expect the sentence that went on in the kitchen to leave it, or to hold on to it: three features of a thousand are not all that a model knows of
# cooking.

# %% [markdown]
# ## How strong?
#
# `dose_response` sweeps the strength. Behaviour is any function from a text to a number from 0 to 1; coherence is the unsteered model's
# likelihood of the text against that of its own. The share of distinct bigrams shows when the text repeats itself.

# %%
cooking = [
    "add",
    "cup",
    "salt",
    "sugar",
    "butter",
    "flour",
    "oil",
    "water",
    "heat",
    "cook",
    "stir",
    "mix",
    "oven",
    "bake",
    "sauce",
    "pan",
    "bowl",
]
curve = ext.dose_response(
    model,
    ext.AddFeature(sae, feature, largest),  # is multiplied by the strength
    [1.0] if SMALL else [0.5, 1.0, 2.0, 4.0],
    ["The first thing I saw was"] if SMALL else ["The first thing I saw was", "You should know that the"],
    behaviour=ext.share_of_words(cooking),
    max_new_tokens=NEW_TOKENS,
    samples_per_prompt=1 if SMALL else 2,
    show_progress=False,
)
curve.to_frame().round(3)

# %%
curve.plot()

# %% [markdown]
# Expect behaviour to rise and coherence to fall: the best strength is in between. What a flow graph through many layers does is in
# [06](06_feature_flow.py); what was measured, in docs/steering.md.
