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
# # Inside a Kron SAE
#
# A TopK SAE has an encoder vector for each of its latents, and for a wide SAE that product is most of the work. A **Kron** SAE
# ([2505.22255](https://arxiv.org/abs/2505.22255)) has none. Its encoder computes a few *pre-latents* a head, m base elements $u$ and n
# extension elements $v$, and each of the head's m · n latents is a pair of them:
#
# $$z_{ij} = \mathrm{mAND}(u_i, v_j) = \begin{cases}\sqrt{u_i v_j} & \text{both positive}\\ 0 & \text{else.}\end{cases}$$
#
# So a latent is an AND: it fires where its base element *and* its extension element do. This notebook trains one and looks at the
# parts.

# %%
import os
from collections import Counter

import pandas as pd
import torch
from sae_lens import (
    SAE,
    HookedSAETransformer,
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
)

import sae_lens_ext as ext
from sae_lens_ext.language_model import Site, contexts, read_activations

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
TOKENS = 4_096 if SMALL else 150_000
D_SAE = 256 if SMALL else 1024
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# %% [markdown]
# ## The model
#
# The cell to change for a model of the hub. Expect other words in the tables below, and the same relation: a pair fires at a part
# of the tokens of either parent.

# %%
MODEL = "embedded"  # or "gpt2", or "gemma-2-2b"

if MODEL == "embedded":
    model = ext.load_embedded_model("bridge", device=DEVICE)
    HOOK, MODEL_CLASS = "blocks.10.hook_out", "TransformerBridge"
elif MODEL == "gpt2":
    model = HookedSAETransformer.from_pretrained("gpt2", device=DEVICE)
    HOOK, MODEL_CLASS = "blocks.6.hook_resid_post", "HookedTransformer"
elif MODEL == "gemma-2-2b":
    model = HookedSAETransformer.from_pretrained_no_processing("gemma-2-2b", device=DEVICE, dtype="bfloat16")
    HOOK, MODEL_CLASS = "blocks.12.hook_resid_post", "HookedTransformer"
D_IN, BOS = model.cfg.d_model, model.tokenizer.bos_token_id

# %% [markdown]
# ## What pairs save
#
# An encoder of m + n vectors for m · n latents. At m = 1 that is more than a TopK's, at m = n = 2 the same. Nothing is saved in the
# decoder: every pair has a row of its own, and means what it likes.

# %%
pd.DataFrame(
    [
        {"m": m, "n": n, "heads": D_SAE // (m * n), "encoder, of a TopK's": f"{(m + n) / (m * n):.0%}"}
        for m, n in ((1, 4), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8))
    ]
)

# %%
cfg = LanguageModelSAERunnerConfig(
    sae=ext.KronTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=32, base_dim=2, extension_dim=4),
    model_name=model.cfg.model_name,
    model_class_name=MODEL_CLASS,
    hook_name=HOOK,
    dataset_path="embedded:encyclopedia",
    context_size=128,
    training_tokens=TOKENS,
    train_batch_size_tokens=1024,
    store_batch_size_prompts=8,
    n_batches_in_buffer=16 if SMALL else 64,
    lr=3e-3,
    lr_warm_up_steps=10,
    lr_decay_steps=TOKENS // 1024 // 5,
    dead_feature_window=50,
    autocast_lm=True,
    exclude_special_tokens=[BOS],
    device=DEVICE,
    checkpoint_path=None,
    output_path="output/kron",
    logger=LoggingConfig(log_to_wandb=False),
)
torch.manual_seed(0)  # SAELens' runners do not read cfg.seed
training = ext.embedded_texts("encyclopedia", split="train").to_dataset().shuffle(seed=0)
runner = LanguageModelSAETrainingRunner(cfg, override_model=model, override_dataset=training)
runner.sae.b_dec.data = runner.activations_store.get_filtered_llm_batch().mean(dim=0)
runner.run()

sae = SAE.load_from_disk("output/kron", device=DEVICE)
h, m, n = sae.n_heads, sae.cfg.base_dim, sae.cfg.extension_dim
f"{type(sae).__name__}: {h} heads of {m} x {n} pairs"

# %% [markdown]
# ## One token, taken apart
#
# `pre_latents` gives $u$ and $v$ before they are rectified. The flat index of a latent is $((\text{head} \cdot m) + i) \cdot n + j$, so
# `torch.unravel_index` finds its parents. In each row the value is the geometric mean of the two.

# %%
prompt = "The Danube rises in the Black Forest and flows into the Black Sea."
_, cache = model.run_with_cache(prompt, names_filter=[HOOK])
x = cache[HOOK][0, -2].float()  # the token " Sea"

with torch.no_grad():
    values, latents = sae.encode_sparse(x)  # the k kept, largest first
    u, v = sae.pre_latents(x)  # [h, m] and [h, n]
head, i, j = torch.unravel_index(latents, (h, m, n))
table = {"latent": latents, "head": head, "base": i, "extension": j, "u": u[head, i], "v": v[head, j]}
pd.DataFrame({name: column.cpu() for name, column in (table | {"value": values}).items()}).head(6).round(2)

# %% [markdown]
# The whole head of the strongest latent, $u$ down the side and $v$ along the top. A row whose $u$ is negative is zero throughout, and so
# is a column whose $v$ is: both must be on.

# %%
top = int(head[0])
grid = (u[top].relu()[:, None] * v[top].relu()[None, :]).sqrt()
pd.DataFrame(
    grid.cpu().numpy().round(2),
    index=[f"u = {value:.2f}" for value in u[top]],
    columns=[f"v = {value:.2f}" for value in v[top]],
)

# %% [markdown]
# ## Is it an AND?
#
# On held-out text: at how many tokens is each parent positive, at how many both, and at how many does the latent survive the top k? And at
# which tokens is each largest? Expect parents that are on at a fifth or a third of all tokens, pairs that are both on at one in thirty, and a top k
# that keeps a third of these: tokens that belong together, where the parents mix them with others.

# %%
packed = contexts(ext.embedded_texts("encyclopedia", split="test"), model.tokenizer, context_size=128)
tokens = torch.as_tensor(packed.with_format("numpy")[: 4 if SMALL else 192]["input_ids"]).long().to(DEVICE)
kept_u, kept_v, kept_z, ids = [], [], [], []
for batch in tokens.split(16):
    x = read_activations(model, batch, Site(HOOK), autocast=True)[batch != BOS].float()
    with torch.no_grad():
        u, v = sae.pre_latents(x)
        kept_u.append(u)
        kept_v.append(v)
        kept_z.append(sae.encode(x))
    ids.append(batch[batch != BOS])
u, v, z, ids = (torch.cat(parts) for parts in (kept_u, kept_v, kept_z, ids))
u.shape, v.shape, z.shape


# %%
def where(strengths, count=8):
    """Name the commonest of the tokens at which something is strongest."""
    strongest = ids[strengths.topk(min(60, len(ids))).indices].tolist()
    return ", ".join(
        repr(model.tokenizer.decode([token])) for token, _ in Counter(strongest).most_common(count)
    )


often = (z > 0).float().mean(dim=0)
chosen = (
    (often - 0.01).abs().argsort()[: 2 if SMALL else 40]
)  # latents that fire at about one token in a hundred
chosen = chosen[z[:, chosen].amax(dim=0).argsort(descending=True)][:3]
rows = []
for latent in chosen.tolist():
    k, i, j = (int(part) for part in torch.unravel_index(torch.tensor(latent), (h, m, n)))
    base, extension = u[:, k, i], v[:, k, j]
    both = (base > 0) & (extension > 0)
    rows += [
        {
            "latent": latent,
            "part": f"base {i} of head {k}",
            "on at": (base > 0).float().mean(),
            "tokens": where(base),
        },
        {
            "latent": latent,
            "part": f"extension {j} of head {k}",
            "on at": (extension > 0).float().mean(),
            "tokens": where(extension),
        },
        {"latent": latent, "part": "both", "on at": both.float().mean(), "tokens": ""},
        {
            "latent": latent,
            "part": "the latent, kept by top k",
            "on at": often[latent],
            "tokens": where(z[:, latent]),
        },
    ]
frame = pd.DataFrame(rows)
frame["on at"] = [f"{100 * float(share):.1f} %" for share in frame["on at"]]
frame.set_index(["latent", "part"])

# %% [markdown]
# Siblings share a parent. In the paper, latents of one head are more alike than those of different heads. Here: the cosine of the decoder
# rows of two latents with a common base element, with a common extension element, in one head with neither, in two heads. Expect 0.2 to 0.3 with a
# common parent, and nothing across heads.

# %%
with torch.no_grad():
    rows = torch.nn.functional.normalize(sae.W_dec, dim=-1)[(z > 0).any(dim=0)]
    alive = (z > 0).any(dim=0).nonzero().squeeze(-1)
    head, i, j = torch.unravel_index(alive, (h, m, n))
    cosine = rows @ rows.T
same_head, same_i, same_j = (part[:, None] == part[None, :] for part in (head, i, j))
other = ~torch.eye(len(alive), dtype=torch.bool, device=alive.device)
pairs = {
    "same base element": same_head & same_i & other,
    "same extension element": same_head & same_j & other,
    "same head, neither": same_head & ~same_i & ~same_j,
    "different heads": ~same_head,
}
pd.DataFrame(
    {
        name: {
            "pairs": int(mask.sum()) // 2,
            "mean cosine": float(cosine[mask].mean()) if mask.any() else None,
        }
        for name, mask in pairs.items()
    }
).T.round(3)

# %% [markdown]
# ## Every budget, too
#
# `KronTrainingSAEConfig(..., budgets="all")` trains a Kron with HierarchicalTopK's loss, and `with_k` may then be used on it. What it
# costs and gains, how fast each is, which m and n: docs/kron.md.
