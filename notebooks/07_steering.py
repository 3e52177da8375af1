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

import torch

import sae_lens_ext as ext
from sae_lens_ext.language_model import Site, read_activations

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
HOOK = "blocks.8.hook_out"
NEW_TOKENS = 3 if SMALL else 24

model = ext.load_embedded_model("bridge")


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
    documents = ext.embedded_texts(name, split="test")[: 4 if SMALL else 40]
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
    ext.AddVector(HOOK, vector),  # is multiplied by the strength
    [1.0] if SMALL else [0.25, 0.5, 1.0, 2.0],
    ["The first thing I saw was"] if SMALL else ["The first thing I saw was", "You should know that the"],
    behaviour=ext.share_of_words(cooking),
    max_new_tokens=NEW_TOKENS,
    samples_per_prompt=1 if SMALL else 4,
    show_progress=False,
)
curve.to_frame().round(3)

# %%
curve.plot()

# %% [markdown]
# Steering by SAE features and by flow graphs is in `05_feature_flow` and docs/steering.md.
