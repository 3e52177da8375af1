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
# # Where do features come from, and what do they become?
#
# A feature of the residual stream at one layer has a decoder direction. At the next layer there is another SAE with directions of its own,
# trained separately; yet one of its features often points the same way. [Analyze Feature Flow](https://arxiv.org/abs/2502.03032) follows
# these matches from layer to layer, without any data:
#
# * **translated**: the feature was there one layer before, and nothing else resembles it;
# * **processed**: it was there, and this layer's MLP or attention writes it, too;
# * **newborn**: it was not there, and the MLP or attention writes it;
# * **unexplained**: nothing before it resembles it.
#
# This notebook trains SAEs at nine sites of three layers on one forward pass, looks at origins and at a flow graph, checks both with data, and
# steers with the graph. On the command line the middle part is `sae-lens-ext flow FOLDER --start 7/res/12 --out DIR`.

# %%
import os

from sae_lens import (
    BatchTopKTrainingSAEConfig,
    LoggingConfig,
    MultiSAETrainingRunner,
    MultiSAETrainingRunnerConfig,
)

import sae_lens_ext as ext

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
LAYERS = (6, 7, 8)
TOKENS = 4_096 if SMALL else 300_000
D_SAE, K = (64, 8) if SMALL else (1024, 32)
EVAL_TOKENS = 1_024 if SMALL else 65_536
THRESHOLDS = None if SMALL else "null"  # after a few steps no match is better than chance

# %%
model = ext.load_embedded_model("bridge")
training, held_out = (ext.embedded_texts("encyclopedia", split=split) for split in ("train", "test"))

SITES = {"residual": "hook_out", "mlp": "mlp.hook_out", "attention": "attn.hook_out"}
hooks = {(layer, kind): f"blocks.{layer}.{site}" for layer in LAYERS for kind, site in SITES.items()}
cfg = MultiSAETrainingRunnerConfig(
    saes={
        hook: BatchTopKTrainingSAEConfig(
            d_in=576,
            d_sae=D_SAE,
            k=K,
            topk_threshold_lr=0.05,
            normalize_activations="expected_average_only_in",  # sites differ in length by a factor of fifty
        )
        for hook in hooks.values()
    },
    hook_names={hook: hook for hook in hooks.values()},
    model_name=model.cfg.model_name,
    model_class_name="TransformerBridge",
    dataset_path="embedded:encyclopedia",
    training_tokens=TOKENS,
    train_batch_size_tokens=1024,
    store_batch_size_prompts=8,
    n_batches_in_buffer=16 if SMALL else 64,
    n_batches_for_norm_estimate=2 if SMALL else 10,
    lr=4e-3,
    lr_warm_up_steps=10,
    lr_decay_steps=TOKENS // 1024 // 5,
    dead_feature_window=100,
    autocast_lm=True,
    exclude_special_tokens=[0],
    n_eval_batches=0,
    output_path="flow_saes",
    checkpoint_path=None,
    logger=LoggingConfig(log_to_wandb=False),
)
MultiSAETrainingRunner(cfg, override_model=model, override_dataset=training.to_dataset()).run()
saes = {hook: ext.load_sae(f"flow_saes/{hook}") for hook in hooks.values()}

# %% [markdown]
# ## Origins, from decoder directions alone
#
# The score s(P) is the largest cosine of the feature with any feature of the predecessor site P. From which score on does a match count?
# The paper steers with 0.5 along the stream and 0.15 for modules. Another width, another number of features, and these mean something
# else; so the default asks what chance does: features made up after this SAE's own, one in a hundred of which passes.

# %%
origins = ext.feature_origins(
    saes[hooks[8, "residual"]],
    residual=saes[hooks[7, "residual"]],
    mlp=saes[hooks[8, "mlp"]],
    attention=saes[hooks[8, "attention"]],
    thresholds=THRESHOLDS,
)
origins

# %%
origins.plot()

# %% [markdown]
# ## What features fire on
#
# One pass of the model serves all nine SAEs.

# %%
tops = ext.top_activations(model, saes, held_out, max_tokens=EVAL_TOKENS, autocast=True, show_progress=False)
home = hooks[7, "residual"]
often = sorted(range(D_SAE), key=lambda i: -tops.firing_rate(home, i))[:64]
chosen = [(home, index) for index in often[:: 64 // 4]]
for hook, index in chosen:
    print(index, [token for token, _ in tops.tokens(hook, index, 8)])

# %% [markdown]
# ## A flow graph
#
# `write_html` writes one page that needs no server: move the threshold, click a node for what it fires on, search.

# %%
graph = ext.trace_features(saes, chosen, thresholds=THRESHOLDS, show_progress=False).with_activations(tops)
graph.write_html("flow.html", title="Four features of layer 7")
graph

# %%
graph.plot()

# %%
graph.node_frame().round(2).head(12)

# %% [markdown]
# ## Does data agree?
#
# For every active feature: which of its three predecessors are active at the same token? The page of docs/feature_flow.md says why to read
# these tests with features, not occurrences, as the unit.

# %%
activity = ext.predecessor_activity(
    model, saes, held_out, n_samples=8 if SMALL else 250, autocast=True, show_progress=False
)
activity.plot()

# %%
ext.origin_agreement(activity)

# %% [markdown]
# And the causal question: what is left of a feature when the predecessor that a method names is taken away, at that token alone? "random
# active" is the control, "exhaustive" chooses by the outcome and bounds the others.

# %%
deactivation = ext.deactivation_test(
    model,
    saes,
    held_out,
    layers=LAYERS[1:],
    n_texts=2 if SMALL else 35,
    max_features=5 if SMALL else 25,
    pearson_tokens=EVAL_TOKENS // 4,
    autocast=True,
    show_progress=False,
)
deactivation

# %%
deactivation.plot()

# %% [markdown]
# ## Steer with it
#
# `flow_steering` adds the graph's features, each at its own layer. `dose_response` measures, strength by strength, how much of a behaviour the
# text shows and how likely the unsteered model finds it.

# %%
words = [word for word in (token.strip() for token, _ in tops.tokens(*chosen[0], 10)) if word.isalpha()] or [
    "the"
]
curve = ext.dose_response(
    model,
    lambda s: ext.flow_steering(graph, s, seeds=chosen[0], layers=7),
    [8.0] if SMALL else [4.0, 8.0, 16.0, 32.0],
    ["I would like to tell you about"]
    if SMALL
    else ["I would like to tell you about", "It is known that the"],
    behaviour=ext.share_of_words(words),
    max_new_tokens=4 if SMALL else 36,
    samples_per_prompt=1 if SMALL else 4,
    show_progress=False,
)
curve

# %%
curve.plot()

# %%
curve.completions_frame()[["strength", "text"]].groupby("strength", dropna=False).head(1)
