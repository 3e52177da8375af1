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

import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAEConfig,
    HookedSAETransformer,
    LoggingConfig,
    MultiSAETrainingRunner,
    MultiSAETrainingRunnerConfig,
)

import sae_lens_ext as ext

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
TOKENS = 4_096 if SMALL else 120_000
D_SAE, K = (64, 8) if SMALL else (512, 32)
EVAL_TOKENS = 1_024 if SMALL else 16_384
THRESHOLDS = None if SMALL else "null"  # after a few steps no match is better than chance
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# %% [markdown]
# ## The model, and SAEs at three sites
#
# The cell to change. On the hub there are SAEs at all three sites of gpt2 (OpenAI's, of 32k latents) and of Gemma 2 2B (Gemma Scope's), so nothing is
# trained there. Expect longer chains: with many more latents, a feature of one layer finds itself in the next more often, and the null's
# thresholds are lower in more dimensions. Of Gemma Scope the paper prints one whole chain, from feature 14548 of layer 24's stream.

# %%
MODEL = "embedded"  # or "gpt2", or "gemma-2-2b"

training, held_out = (ext.embedded_texts("encyclopedia", split=split) for split in ("train", "test"))
SITES = {"residual": "hook_resid_post", "mlp": "hook_mlp_out", "attention": "hook_attn_out"}
LAYERS, RELEASES = (6, 7, 8), {}
if MODEL == "embedded":
    model = ext.load_embedded_model("bridge", device=DEVICE)
    SITES = {"residual": "hook_out", "mlp": "mlp.hook_out", "attention": "attn.hook_out"}
elif MODEL == "gpt2":
    model = HookedSAETransformer.from_pretrained("gpt2", device=DEVICE)
    names = {"residual": "resid-post", "mlp": "mlp-out", "attention": "attn-out"}
    RELEASES = {kind: f"gpt2-small-{name}-v5-32k" for kind, name in names.items()}
    SAE_ID = "blocks.{layer}.{site}"
elif MODEL == "gemma-2-2b":
    model = HookedSAETransformer.from_pretrained_no_processing("gemma-2-2b", device=DEVICE, dtype="bfloat16")
    names = {"residual": "res", "mlp": "mlp", "attention": "att"}
    RELEASES = {kind: f"gemma-scope-2b-pt-{name}-canonical" for kind, name in names.items()}
    SAE_ID, LAYERS = "layer_{layer}/width_16k/canonical", (11, 12, 13)
    SITES["attention"] = "attn.hook_z"  # on the heads: `model` maps their rows into the stream
hooks = {(layer, kind): f"blocks.{layer}.{site}" for layer in LAYERS for kind, site in SITES.items()}


# %%
def train_all():
    """Train an SAE at each site, all on one forward pass."""
    size = {"d_in": model.cfg.d_model, "d_sae": D_SAE, "k": K}
    # Sites differ in length by a factor of fifty.
    settings = {"topk_threshold_lr": 0.05, "normalize_activations": "expected_average_only_in"}
    cfg = MultiSAETrainingRunnerConfig(
        saes={hook: BatchTopKTrainingSAEConfig(**size, **settings) for hook in hooks.values()},
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
        exclude_special_tokens=[model.tokenizer.bos_token_id],
        device=DEVICE,
        n_eval_batches=0,
        output_path="flow_saes",
        checkpoint_path=None,
        logger=LoggingConfig(log_to_wandb=False),
    )
    torch.manual_seed(0)
    MultiSAETrainingRunner(cfg, override_model=model, override_dataset=training.to_dataset()).run()
    return {hook: ext.load_sae(f"flow_saes/{hook}", device=DEVICE) for hook in hooks.values()}


def fetch_all():
    """Fetch the hub's."""
    ids = {
        hook: (RELEASES[kind], SAE_ID.format(layer=layer, site=SITES[kind]))
        for (layer, kind), hook in hooks.items()
    }
    return {
        hook: SAE.from_pretrained(release, sae_id, device=DEVICE) for hook, (release, sae_id) in ids.items()
    }


saes = fetch_all() if RELEASES else train_all()
below, here = LAYERS[1:]
len(saes)

# %% [markdown]
# ## Origins, from decoder directions alone
#
# The score s(P) is the largest cosine of the feature with any feature of the predecessor site P. From which score on does a match count?
# The paper steers with 0.5 along the stream and 0.15 for modules. Another width, another number of features, and these mean something
# else; so the default asks what chance does: features made up after this SAE's own, one in a hundred of which passes.

# %%
origins = ext.feature_origins(
    saes[hooks[here, "residual"]],
    residual=saes[hooks[below, "residual"]],
    mlp=saes[hooks[here, "mlp"]],
    attention=saes[hooks[here, "attention"]],
    thresholds=THRESHOLDS,
    model=model,
)
origins

# %%
origins.plot()

# %% [markdown]
# ## What features fire on
#
# One pass of the model serves all nine SAEs. To follow, we take four features of the middle layer that fire at about one token in a hundred and have a
# close match one layer before.

# %%
tops = ext.top_activations(model, saes, held_out, max_tokens=EVAL_TOKENS, autocast=True, show_progress=False)
home = hooks[below, "residual"]
matched = ext.match_features(saes[home], saes[hooks[LAYERS[0], "residual"]]).scores[:, 0]
often = [i for i in range(len(matched)) if 0.003 < tops.firing_rate(home, i) < 0.03] or range(len(matched))
chosen = [(home, index) for index in sorted(often, key=lambda i: -matched[i])[:4]]
for hook, index in chosen:
    print(index, [token for token, _ in tops.tokens(hook, index, 8)])

# %% [markdown]
# ## A flow graph
#
# `write_html` writes one page that needs no server: move the threshold, click a node for what it fires on, search.

# %%
graph = ext.trace_features(saes, chosen, thresholds=THRESHOLDS, model=model, show_progress=False)
graph = graph.with_activations(tops)
graph.write_html("flow.html", title=f"Four features of layer {below}")
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
    model, saes, held_out, n_samples=8 if SMALL else 100, autocast=True, show_progress=False
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
    n_texts=2 if SMALL else 6,
    max_features=5 if SMALL else 10,
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
    lambda s: ext.flow_steering(graph, s, starts=chosen[0], layers=below),
    [8.0] if SMALL else [8.0, 16.0, 32.0],
    ["I would like to tell you about"]
    if SMALL
    else ["I would like to tell you about", "It is known that the"],
    behaviour=ext.share_of_words(words),
    max_new_tokens=4 if SMALL else 24,
    samples_per_prompt=1 if SMALL else 2,
    show_progress=False,
)
curve

# %%
curve.plot()

# %%
curve.completions_frame()[["strength", "text"]].groupby("strength", dropna=False).head(1)
