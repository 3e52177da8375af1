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
# # Augmenting a pretrained SAE
#
# You have an SAE that you trust, with features that are named, written about, built upon. On the texts you care about it
# is half blind. Retraining it would scramble its features; training another would leave you with two dictionaries.
#
# A **residual SAE** ([2507.12990](https://arxiv.org/abs/2507.12990)) learns only what the first one, the *base*, misses on
# your domain. Added to the base it makes one SAE, a *stack*, in which the base's features keep index, weights and meaning.
# This notebook takes a base that has read an encyclopedia and teaches it Python:
#
# 1. measure where the base fails,
# 2. train a residual SAE on Python, with a little prose mixed in,
# 3. measure what was gained and what it cost,
# 4. look at the new features beside the base's most similar ones,
# 5. save it as one ordinary SAELens SAE.
#
# The command line does all of this: `sae-lens-ext augment base --domain python=embedded:python_source`.

# %%
import os

import torch
from IPython.display import HTML
from sae_lens import (
    SAE,
    BatchTopKTrainingSAEConfig,
    HookedSAETransformer,
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
)

import sae_lens_ext as ext
from sae_lens_ext.analysis.new_latents import SECTION_CSS
from sae_lens_ext.language_model import contexts

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
TOKENS = 4_096 if SMALL else 100_000
D_BASE, D_NEW = (256, 64) if SMALL else (1024, 512)
EVAL_TOKENS = 1_024 if SMALL else 2_048
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# %% [markdown]
# ## The model, and its SAE
#
# The cell to change. On the hub's models the base is one that many people know: of gpt2 `gpt2-small-res-jb`, of Gemma 2 2B one of Gemma
# Scope. Nothing in what follows depends on how a base was made: it may be a `standard`, `gated`, `jumprelu` or `topk` SAE, or one that is saved
# as such. Expect the same tables: less explained of Python than of prose at first (far less on the embedded model, whose small base has read
# nothing but an encyclopedia), a gain on Python with the domain on, and nothing much lost on prose. With Gemma 2 2B, 100,000 tokens take
# minutes on a GPU and hours on a CPU.

# %%
MODEL = "embedded"  # or "gpt2", or "gemma-2-2b"

if MODEL == "embedded":
    model = ext.load_embedded_model("bridge", device=DEVICE)
    HOOK, MODEL_CLASS = "blocks.10.hook_out", "TransformerBridge"
    BASE = {"base_path": "output/base"}  # trained below
elif MODEL == "gpt2":
    model = HookedSAETransformer.from_pretrained("gpt2", device=DEVICE)
    HOOK, MODEL_CLASS = "blocks.6.hook_resid_pre", "HookedTransformer"
    BASE = {"base_release": "gpt2-small-res-jb", "base_sae_id": HOOK}
elif MODEL == "gemma-2-2b":
    model = HookedSAETransformer.from_pretrained_no_processing("gemma-2-2b", device=DEVICE, dtype="bfloat16")
    HOOK, MODEL_CLASS = "blocks.12.hook_resid_post", "HookedTransformer"
    BASE = {"base_release": "gemma-scope-2b-pt-res-canonical", "base_sae_id": "layer_12/width_16k/canonical"}
D_IN, BOS = model.cfg.d_model, model.tokenizer.bos_token_id


def packed(text):
    """The training documents of an embedded text, packed into contexts of 128 tokens."""
    documents = ext.embedded_texts(text, split="train")
    return contexts(documents[:400] if SMALL else documents, model.tokenizer, context_size=128)


prose, code = packed("encyclopedia"), packed("python_source")


# %% [markdown]
# ## The base
#
# Yours comes from `SAE.from_pretrained` or from a folder. For the embedded model we train a small one.


# %%
def train(sae_cfg, dataset, output_path):
    cfg = LanguageModelSAERunnerConfig(
        sae=sae_cfg,
        model_name=model.cfg.model_name,
        model_class_name=MODEL_CLASS,
        hook_name=HOOK,
        context_size=128,
        training_tokens=TOKENS,
        train_batch_size_tokens=1024,
        store_batch_size_prompts=8,
        n_batches_in_buffer=16 if SMALL else 64,
        lr=2e-3,
        lr_warm_up_steps=10,
        lr_decay_steps=TOKENS // 1024 // 5,
        dead_feature_window=50,
        autocast_lm=True,
        exclude_special_tokens=[BOS],
        device=DEVICE,
        checkpoint_path=None,
        output_path=output_path,
        logger=LoggingConfig(log_to_wandb=False),
    )
    # SAELens' runners do not read cfg.seed. With one seed for both, the residual would start from the base's own first rows.
    torch.manual_seed(1 if isinstance(sae_cfg, ext.ResidualTrainingSAEConfig) else 0)
    LanguageModelSAETrainingRunner(cfg, override_model=model, override_dataset=dataset).run()
    return SAE.load_from_disk(output_path, device=DEVICE)


if MODEL == "embedded":
    base_cfg = BatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_BASE, k=32, topk_threshold_lr=0.1)
    base = train(base_cfg, prose, "output/base")
else:
    base = SAE.from_pretrained(BASE["base_release"], BASE["base_sae_id"], device=DEVICE)
base

# %% [markdown]
# ## Where does it fail?
#
# `evaluate_domains` measures SAEs on several texts at once. **ev** is explained variance. **ce** is the model's own
# cross-entropy, **ce_with** that with the SAE's reconstruction in place of the activations; **ce_score** is 1 if splicing
# the SAE in costs nothing and 0 if it costs as much as zeros would. Expect the base to do far worse on Python, which it has
# never read, than on prose.

# %%
held_out = {
    "python": ext.embedded_texts("python_source", split="test"),
    "prose": ext.embedded_texts("encyclopedia", split="test"),
}
settings = {"max_tokens": EVAL_TOKENS, "autocast": True, "show_progress": False}
ext.evaluate_domains(model, {"base": base}, held_out, **settings).to_frame().round(3)

# %% [markdown]
# ## Teach it
#
# The residual SAE names its base and otherwise trains like any SAE. Nothing tells it to stay silent on other texts, except
# having read some: a tenth of the contexts are prose. (The paper trains on the domain alone, on a billion tokens;
# `general_fraction=0` does that.) The target on prose is what the base misses there, too, so that firing where it does
# harm has a price.

# %%
residual_cfg = ext.ResidualTrainingSAEConfig(d_in=D_IN, d_sae=D_NEW, k=5, topk_threshold_lr=0.1, **BASE)
residual = train(residual_cfg, ext.mix_datasets(code, prose, general_fraction=0.1), "output/python_residual")
stack = ext.ResidualStackSAE.from_saes(base, {"python": residual})
print(f"{stack.cfg.d_sae} latents: the base's first, then those of {', '.join(stack.domains)}")

# %% [markdown]
# ## Gained, and at what cost
#
# `with_active(())` is the base alone, bit for bit. Look at both texts: a gain on Python that breaks prose is none.

# %%
report = ext.evaluate_domains(
    model, {"base": stack.with_active(()), "with python": stack}, held_out, **settings
)
report.to_frame().round(3)

# %%
report.changes("base").round(3)

# %%
report.plot()

# %% [markdown]
# ## What are the new features?
#
# Each of the new features that contribute most, beside the base's feature with the most similar decoder direction. A large
# cosine with contexts alike says that the base knew this already and had it wrong for Python; a small one says that it is
# new. `write_html` makes a page of it.

# %%
latents = ext.compare_new_latents(model, stack, held_out, n_latents=3, n_contexts=3, **settings)
latents.write_html("output/latents.html")
latents.to_frame().round(2)

# %%
HTML(f"<style>{SECTION_CSS}</style>{latents.html_section()}")

# %% [markdown]
# ## One SAE, switches, addresses
#
# The stack is an SAE like any other: `run_with_saes`, `run_evals`, `save_model`. `active` switches domains,
# `flat_index` and `locate` translate between a feature of a domain and its place in the whole.

# %%
feature = latents.pairs[0].new
assert stack.locate(feature.flat_index) == ("python", feature.index)
prompt = "def mean(xs):\n    return sum(xs) / len(xs)\n"
with torch.no_grad():
    _, cache = model.run_with_cache_with_saes(prompt, saes=[stack])
acts = cache[f"{HOOK}.hook_sae_acts_post"]
print(acts.shape, "the feature's largest activation:", acts[0, 1:, feature.flat_index].max().item())

# %% [markdown]
# With a base of thresholds (here: BatchTopK, saved as JumpReLU) the stack is exactly one ordinary JumpReLU SAE. Whoever
# loads it does not need this package.

# %%
native = stack.to_native()
native.save_model("output/native")
x = torch.randn(256, D_IN, device=DEVICE)
with torch.no_grad():
    print(type(native).__name__, native.cfg.d_sae, (native(x) - stack(x)).abs().max().item())
