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
# # Layer-Integrated Memory
#
# In a transformer each layer's attention reads the keys and values that this layer computes from the residual stream, into which everything
# before it has been summed up. Layer-Integrated Memory (LIMe, arXiv 2502.09245) lets it read those of all earlier layers as well: in layer ℓ,
# a learnt router mixes the keys and values of all heads of layers 0 to ℓ, and the same weights serve both. The cost is a few weights. Here we attach
# routers to a model, train small models with and without them, look at who reads whom, and ask whether layers' representations collapse.

# %%
import os

import torch
from sae_lens import HookedSAETransformer
from transformer_lens.model_bridge import TransformerBridge

import sae_lens_ext as ext

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration

# %% [markdown]
# ## The model
#
# The cell to change, for the first and the last part: any HookedTransformer or TransformerBridge. Expect the same equalities, in Gemma's bfloat16
# to about a hundredth of a logit, and another picture of collapse at the end.

# %%
MODEL = "embedded"  # or "gpt2", or "gemma-2-2b"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

if MODEL == "embedded":
    pretrained = ext.load_embedded_model("bridge", device=DEVICE)
elif MODEL == "gpt2":
    pretrained = HookedSAETransformer.from_pretrained("gpt2", device=DEVICE)
elif MODEL == "gemma-2-2b":
    pretrained = HookedSAETransformer.from_pretrained_no_processing(
        "gemma-2-2b", device=DEVICE, dtype="bfloat16"
    )

# %% [markdown]
# ## Attaching changes nothing
#
# `attach_lime` takes any HookedTransformer or TransformerBridge whose layers have keys and values of the same number of heads, grouped ones too.
# Routers begin at the identity: each head reads its own keys and values, as before. They act before rotary embedding, and a token's
# keys are mixed with that token's only, so that the causal mask and generation with a cache stay right.

# %%
prompt = "The lake is fed by three rivers, and the largest of them"

with torch.no_grad():
    before = pretrained(prompt)
    routers = ext.attach_lime(pretrained)
    after = pretrained(prompt)
print("largest difference of a logit:", float((after - before).abs().max()))
routers

# %% [markdown]
# `recording` has keys and values before and after the routing. Let us make one head of one layer read a value of layer 3, too.

# %%
late = pretrained.cfg.n_layers * 2 // 3
with torch.no_grad():
    routers.weights[late][0, 3, 0] = 0.5  # [target head, source layer, source head]
    with routers.recording() as memory:
        pretrained(prompt)
expected = memory.values[late][:, :, 0] + 0.5 * memory.values[3][:, :, 0]
print(
    "as the formula says:",
    torch.allclose(memory.routed_values[late][:, :, 0], expected, atol=1e-4, rtol=1e-2),
)

routers.detach()
with torch.no_grad():
    print("detached, the model is as it was:", torch.equal(pretrained(prompt), before))

# %% [markdown]
# On a pretrained model routers are trained with `routers.train_on(tokens)`, the model frozen, or on the command line with
# `sae-lens-ext train-lime`. That takes minutes, so here we train small models from scratch, as the paper does.
#
# ## Training with and without
#
# The task is the paper's: arithmetic expressions worked out step by step. Both models have the same weights at the start and read the same
# expressions in the same order. `initial="random"` is how the paper begins a training from scratch; the routers have a higher learning rate
# of their own, and no weight decay.

# %%
OPERANDS, TRAINING, HELD_OUT, STEPS = ([3, 4], 64, 20, 5) if SMALL else ([3, 4], 20_000, 200, 800)
train = ext.arithmetic_examples(OPERANDS, TRAINING)
held_out = ext.arithmetic_examples(OPERANDS, HELD_OUT, seed=1, distinct_from=train)
train


# %%
def small_model():
    """Give a model of the paper's size, the same weights each time."""
    settings = {"n_layers": 4, "n_heads": 4, "d_model": 32, "d_head": 8, "d_mlp": 128, "n_ctx": 64}
    positions = {"positional_embedding_type": "rotary", "rotary_dim": 8}
    kind = {"act_fn": "gelu", "normalization_type": "LN", "d_vocab": train.vocabulary.size, "seed": 0}
    return TransformerBridge.boot_native(settings | positions | kind)


settings = {"loss_mask": train.loss_masks, "batch_size": 64, "lr": 3e-3, "epochs": 100, "max_steps": STEPS}
plain, with_lime = small_model(), small_model()
small_routers = ext.attach_lime(with_lime, initial="random")

of_plain = ext.train_language_model(plain, train.tokens, **settings)
of_lime = ext.train_language_model(with_lime, train.tokens, routers=small_routers, router_lr=1e-2, **settings)
of_lime.plot()

# %%
accuracy = ext.arithmetic_accuracy(with_lime, held_out)
without = ext.arithmetic_accuracy(plain, held_out)
print("without:", without)
print("with:   ", accuracy)
print("difference:", accuracy.minus(without))
accuracy.plot()

# %% [markdown]
# Expect little after 800 steps: 0.15 to 0.2 of the answers are right with and without, where guessing has 0.09. After 3,135 steps, at six numbers,
# it is 0.39 and 0.68 in the mean of three seeds, which differ more than the two do (docs/lime.md). Run the control as well, `initial="average"`, whose routers are fixed at a plain average of the layers.
#
# ## Who reads whom
#
# Mean |R| over heads, as shares of each row. In the paper the early layers lean on the first buffer, each layer on its predecessor, the last ones
# on the first two.

# %%
read = ext.router_map(small_routers)
print(read)
read.plot()

# %%
read.plot(per_head=True)

# %% [markdown]
# A weight says little about what it carries: values differ in size, and may be alike. `depthwise_circuits` asks how much of what a head reads comes from
# which layer's head, and at which tokens. (There is no tokenizer here, so tokens are shown by their ids: 0 to 10 are numbers, then + − × ÷ ( ) =.)

# %%
longest = max(held_out.tokens, key=lambda group: group.numel())  # sequences of one length
circuits = ext.depthwise_circuits(with_lime, small_routers, longest, min_count=1)
circuits

# %% [markdown]
# ## Do representations collapse?
#
# The matrix entropy of a sequence's representations: 0 if all lie along one line, ln min(t, d) if they fill all directions evenly. Each dimension is
# z-scored first. Of values there are a layer's own, and with LIMe those after routing, which attention reads.

# %%
reports = {
    "without": ext.collapse_report(plain, longest, words=None),
    "with routers": ext.collapse_report(with_lime, longest, routers=small_routers, words=None),
}
ext.plot_collapse(reports)

# %% [markdown]
# The same for a pretrained model; and with `words`, how well a linear probe tells a few words apart in each layer.

# %%
texts = ext.embedded_texts("encyclopedia", split="test")
texts = texts[: 40 if SMALL else 400]
collapse = ext.collapse_report(
    pretrained,
    list(texts),
    context_size=32 if SMALL else 128,
    max_tokens=64 if SMALL else 4096,
    words=None if SMALL else (" is", " are", " was", " were"),
    per_word=40,
    skip_positions=1,
)
collapse

# %%
collapse.plot()
