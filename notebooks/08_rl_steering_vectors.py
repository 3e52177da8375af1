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
# # Steering vectors by reinforcement learning
#
# One trainable vector for each layer, added to the residual stream at every token, everything else frozen: so small a change lets a
# language model solve more of a task that it can solve sometimes (arXiv 2509.06608, 2505.18706). Here we train such vectors with a
# reward, look at a control, and then read them: which tokens do they name, where in a text do they act, and by which path?

# %%
import os

import torch
from sae_lens import HookedSAETransformer

import sae_lens_ext as ext

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
STEPS, GROUP, PROMPTS, SAMPLES = (1, 2, 2, 1) if SMALL else (8, 8, 8, 4)
SAMPLING = {"max_new_tokens": 3 if SMALL else 6, "prepend_bos": False}  # the chat template has no BOS
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# %% [markdown]
# ## The model
#
# The cell to change: any HookedTransformer or TransformerBridge. gpt2 is no chat model: expect it to learn to answer with a number at all, and look
# at the control before you call the gain arithmetic. Gemma 2 2B's chat version should solve most of these sums: if its mean reward is near 1
# from the start, give it harder ones, so that some samples fail, and a GPU. The learning rate goes with the stream's length.

# %%
MODEL = "embedded"  # or "gpt2", or "gemma-2-2b-it"

if MODEL == "embedded":
    model, LR = ext.load_embedded_model("bridge", device=DEVICE), 1e-2
    TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
elif MODEL == "gpt2":
    model, LR = HookedSAETransformer.from_pretrained("gpt2", device=DEVICE), 1e-2
    TEMPLATE = "Question: {}\n"
elif MODEL == "gemma-2-2b-it":
    model, LR = (
        HookedSAETransformer.from_pretrained_no_processing(
            MODEL, device=DEVICE, dtype="float32"
        ),  # readings need the digits
        1e-2,
    )
    TEMPLATE = "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"

# %% [markdown]
# ## A task with a reward
#
# A reward is any function of a prompt and a completion that gives a number. `LastNumberEquals`, `BoxedEquals`, `MatchesPattern` and
# `LengthWithin` are ready. The task should be one that the model solves sometimes: if all samples of a prompt get the same reward, nothing
# is learnt from it.


# %%
def question(a, b):
    """Give a prompt in the model's chat template."""
    return TEMPLATE.format(f"What is {a} + {b}?") + "The answer is"


sums = {question(a, b): a + b for a in range(2, 20) for b in range(2, 10)}
reward = ext.LastNumberEquals(sums)
if SMALL:  # two samples are hardly ever right: any reward that tells them apart will do

    def reward(prompt, completion):  # noqa: ARG001
        return float(len(completion))


held_out = list(sums)[:: 36 if SMALL else 6]
train = [prompt for prompt in sums if prompt not in held_out]

before = ext.measure_reward(model, held_out, reward, samples_per_prompt=SAMPLES, **SAMPLING)
before

# %% [markdown]
# ## Training
#
# REINFORCE with leave-one-out baselines (RLOO): of each prompt a group of completions is sampled, and a completion counts by how much more
# reward it got than the others of its group. With `folder=` the state is saved after every step, and the same call goes on where it was.
# The learning rate must fit the size of the residual stream: AdamW moves each entry by up to it in a step.

# %%
settings = dict(group_size=GROUP, prompts_per_step=PROMPTS, steps=STEPS, lr=LR, **SAMPLING)
vectors = ext.train_steering_vectors(model, train, reward, **settings)
after = ext.measure_reward(
    model, held_out, reward, samples_per_prompt=SAMPLES, intervention=vectors.interventions(model), **SAMPLING
)
print(after)
print("gain:", after.gain_over(before))

# %% [markdown]
# Always run the control: the same training on rewards drawn at random. What it gains is not due to the reward.

# %%
control = ext.train_steering_vectors(model, train, reward, control="random", **settings)
random = ext.measure_reward(
    model, held_out, reward, samples_per_prompt=SAMPLES, intervention=control.interventions(model), **SAMPLING
)
print("random reward:", random.estimate)
print("true over random:", after.gain_over(random))

# %% [markdown]
# ## What they say: the logit lens
#
# The cosine of a vector with each token's row of the unembedding. `null_cosine` is what the best token of a random direction reaches: below
# it a name means nothing. It reads any vector of the residual stream: an SAE's decoder row, a difference of means, a flow graph's sum.

# %%
lens = ext.logit_lens(model, vectors, top_k=8)
lens

# %%
lens.plot()

# %% [markdown]
# A vector of an early layer passes through many blocks. Its propagated effect, the mean change after the last block, can be read too.

# %%
written = after.sequences  # the token ids that were sampled
few = written[: 2 if SMALL else 24]
effect = ext.propagated_effect(model, vectors, few)
print(effect)
ext.logit_lens(model, effect, top_k=8).plot()

# %% [markdown]
# ## Where they act: token by token
#
# Base and steered model read the same ids. Δp is the steered model's probability of a token less the base's; "first" is the first
# generated token.

# %%
shift = ext.token_shift(model, vectors, few)
print(shift)
shift.plot()

# %%
shift.plot_tokens()

# %% [markdown]
# ## How the effect travels
#
# Diff-Vector: is the change at block j along the vector of layer j? Diff-Diff: is it one direction for all tokens?

# %%
last = model.cfg.n_layers - 1
ext.persistence(model, vectors.only(0, last // 3, 2 * last // 3, last - 1), few).plot()

# %% [markdown]
# ## By which path
#
# The last vector but one enters the last block's input. Which of the block's parts must see it for its effect to stay? `skip_attn`: the
# attention reads the stream without it; `skip_layer`: attention and MLP do.

# %%
paths = ext.path_patching(
    model, vectors.only(last - 1), few, modes=("full", "skip_attn", "skip_mlp", "skip_layer", "base")
)
print(paths)
paths.plot()
