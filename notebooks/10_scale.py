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
# # The same job over ranks
#
# An SAE of 2¹⁶ latents on a billion tokens, or 96 seeds of one, outgrows a GPU. `torchrun`, torch's own launcher, starts the same command in
# many processes, the *ranks*, on one machine or on many; they divide the work. This notebook does it with two ranks on a CPU and a small SAE, and asks
#
# 1. whether two ranks train the SAE that one process trains,
# 2. whether they do if they divide the latents instead of the batch,
# 3. what happens if one of them is killed,
# 4. and whether seeds that are divided over ranks stay what they were.
#
# What a step sends and takes with 8 and 64 GPUs, and where it stops scaling: [docs/scale.md](../docs/scale.md).

# %%
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

temporary = tempfile.TemporaryDirectory()
FOLDER = Path(temporary.name)  # every job gets a subfolder
TRAIN = """
train --architecture hierarchical_topk --sae.budgets 32 --k 32 --d_in 576 --d_sae 512
      --model_name embedded --dataset_path embedded:encyclopedia --hook_name blocks.10.hook_resid_post
      --training_tokens 8192 --train_batch_size_tokens 512 --n_batches_in_buffer 32 --store_batch_size_prompts 8
      --lr 3e-3 --autocast_lm true --exclude_special_tokens true --log_to_wandb false
"""


def start(name, more="", *, ranks=None, restarts=0):
    """Start `sae-lens-ext train`, by torchrun if there are ranks; one thread a process, since several add up in another order."""
    folder = FOLDER / name
    folder.mkdir()
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    launcher = [*torchrun, "--max-restarts", str(restarts)] if ranks else []
    where = ["--output_path", str(folder / "sae"), "--checkpoint_path", str(folder / "checkpoints")]
    with (folder / "log.txt").open("w") as log:
        return subprocess.Popen(
            [sys.executable, *launcher, "-m", "sae_lens_ext", *shlex.split(TRAIN + more), *where],
            env={**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": ""},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def finish(name, job):
    """Wait for a job, and give what it said."""
    status, said = job.wait(), (FOLDER / name / "log.txt").read_text()
    if status != 0:
        raise RuntimeError(said)
    return said


def weights(name, sae="."):
    return load_file(FOLDER / name / "sae" / sae / "sae_weights.safetensors")


def largest_difference(first, second):
    return {name: float((second[name] - first[name]).abs().max()) for name in first}


# %% [markdown]
# ## One process
#
# On the command line: `sae-lens-ext train --architecture …`. `--seed` decides the initial weights and the order of the activations, so the command can
# be repeated to the bit.

# %%
finish("one", start("one"))
{name: list(tensor.shape) for name, tensor in weights("one").items()}

# %% [markdown]
# Expected: the four tensors of a TopK SAE with 512 latents, `W_enc` [576, 512] and `W_dec` [512, 576] among them. (One budget, k itself, is plain TopK with
# an exact sparse step.)
#
# ## Data parallel
#
# `torchrun --nproc-per-node 2 -m sae_lens_ext train …`: the same words. Each rank runs the language model on half of the text, trains on half of each batch, and
# the gradients are averaged. `--train_batch_size_tokens` is the whole batch: the batches are those of one process.

# %%
said = finish("data", start("data", ranks=2))
print("bars of the training:", said.count("Training SAE:   0%|          | 0/8192 [00:00"))
largest_difference(weights("one"), weights("data"))

# %% [markdown]
# Expected: one bar, and differences of about 1e-5 or less. The ranks' sums are rounded in another order, and nothing else differs. Only the first rank shows
# its progress, and it alone has saved the SAE.
#
# ## The latents divided
#
# With `--parallel tensor` each rank holds 256 of the 512 latents, with their gradients and their Adam moments, for SAEs that do not fit one device. The top k
# are those among all latents: each rank offers its own k best, and the same k are chosen everywhere.

# %%
finish("tensor", start("tensor", "--parallel tensor", ranks=2))
largest_difference(weights("one"), weights("tensor"))

# %% [markdown]
# Expected: the same as above. What is saved is the undivided SAE, which SAELens loads.
#
# ## A rank is killed
#
# Long jobs lose machines. `--max-restarts 1` lets torchrun start all ranks anew if one ends, and `--n_checkpoints 4` gives them something to go on
# from. Here the second rank gets SIGKILL as soon as the first checkpoint is whole.

# %%
job = start("killed", "--n_checkpoints 4", ranks=2, restarts=1)
while not (found := list(FOLDER.glob("killed/checkpoints/*/*/runner_cfg.json"))) and job.poll() is None:
    time.sleep(0.02)
if found:
    psutil.Process(job.pid).children()[1].kill()  # torchrun's children are the ranks
said = finish("killed", job)

for line in said.splitlines():
    if re.search("SIGKILL|exitcode: -9|Going on", line):
        print(re.sub(r"\S*/checkpoints/\w+", "…", line.rpartition("\r")[2])[:200])
largest_difference(weights("data"), weights("killed"))

# %% [markdown]
# Expected: torchrun reports `exitcode: -9`, that is SIGKILL; started anew, the first rank says from which checkpoint it goes on; and the differences
# are exactly 0. The job has ended with the weights of the one that nobody disturbed: it finds the batch it was at, and runs the model only on text that is still
# needed. A rank that hangs instead ends the job after `SAE_LENS_EXT_RANK_TIMEOUT` seconds, with a sentence.
#
# ## Seeds divided
#
# `--seeds` trains many SAEs on one stream of activations. Of three, the first rank trains two and the second one; each runs the model on all of the text.

# %%
seeds = "--seeds 0,1,2"
jobs = {"seeds_of_one": start("seeds_of_one", seeds), "seeds_of_two": start("seeds_of_two", seeds, ranks=2)}
for name, job in jobs.items():
    finish(name, job)
for seed in range(3):
    one, two = (weights(name, f"seed_{seed}") for name in ("seeds_of_one", "seeds_of_two"))
    print(f"seed {seed}: equal to the bit: {all(torch.equal(one[name], two[name]) for name in one)}")

# %% [markdown]
# Expected: `True` three times. No seed knows of the others, so that nothing is added up across ranks.
#
# From Python: `DataParallelRunner(cfg).run()`, `TensorParallelRunner(cfg).run()`, `train_seeds(cfg, seeds)`, and, for what comes after, `feature_stability` and
# `flow_map`; see `examples/over_ranks.py`. How many GPUs are worth it, for which of these, is in [docs/scale.md](../docs/scale.md).
