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
# # When things go wrong
#
# A job that is killed, a disk that is full, a file that was damaged on the way, an argument that is no number. This notebook makes each of them happen and asks
#
# 1. what is left of a training that is killed, and whether it ends as if it had not been,
# 2. whether a damaged file is found, and by what,
# 3. what a save does that cannot be finished,
# 4. and what a bad call says.
#
# How often each of them was tried, and what was mended for it: [docs/reliability.md](../docs/reliability.md).

# %%
import errno
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

import sae_lens_ext as ext

temporary = tempfile.TemporaryDirectory()
FOLDER = Path(temporary.name)
TRAIN = """
train --architecture kron --sae.base_dim 2 --sae.extension_dim 4 --k 16 --d_in 576 --d_sae 512
      --model_name embedded --dataset_path embedded:recipes --hook_name blocks.4.hook_resid_post
      --training_tokens 8192 --train_batch_size_tokens 512 --n_batches_in_buffer 16 --store_batch_size_prompts 4
      --lr 3e-3 --n_checkpoints 4 --log_to_wandb false
"""


def start(name, *more):
    """Start `sae-lens-ext train` in a process of its own, with one thread."""
    where = [
        "--output_path",
        str(FOLDER / name / "sae"),
        "--checkpoint_path",
        str(FOLDER / name / "checkpoints"),
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "sae_lens_ext", *shlex.split(TRAIN), *where, *more],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def checkpoints(name):
    """Give the whole checkpoints of a run, the last one last."""
    found = (FOLDER / name / "checkpoints").glob("*/[0-9]*")
    return sorted(found, key=lambda path: int(path.name))


def weights(name):
    return load_file(FOLDER / name / "sae" / "sae_weights.safetensors")


# %% [markdown]
# ## A training that is killed
#
# One run in peace; one that gets SIGKILL, which no process can answer, as soon as its first checkpoint is there.

# %%
assert start("in_peace").wait() == 0

job = start("killed")
while not checkpoints("killed"):
    assert job.poll() is None
    time.sleep(0.02)
job.kill()
job.wait()
for saved in ext.check_saved(FOLDER / "killed"):
    print(saved.path.relative_to(FOLDER), "|", saved.problem or saved.kind)

# %% [markdown]
# Expected: one checkpoint or more, whole. (Perhaps a folder that ends in `.part`: the one that was being written.) A checkpoint is written aside, flushed to the
# disk and renamed, so that it is whole or not there; its checksums are in it. Go on from the last one:

# %%
assert start("killed", "--resume_from_checkpoint", str(checkpoints("killed")[-1])).wait() == 0
{name: torch.equal(tensor, weights("killed")[name]) for name, tensor in weights("in_peace").items()}

# %% [markdown]
# Expected: `True` for every tensor. The stream of activations finds the batch it was at, whatever was drawn before it, so that the killed run ends with the
# weights of the other to the bit.
#
# ## A file that was damaged
#
# One bit of one weight is flipped. SAELens' format has no checksum; SAEs that this package saves have one in the header of the weights, which SAELens passes over.

# %%
path = FOLDER / "killed" / "sae" / "sae_weights.safetensors"
data = bytearray(path.read_bytes())
data[-1000] ^= 1
path.write_bytes(data)
try:
    ext.load_sae(path.parent)
except ValueError as error:
    print(error)

# %% [markdown]
# The command `sae-lens-ext check` looks through a folder for such things, in SAEs, checkpoints, results, vectors and routers.

# %%
check = [sys.executable, "-m", "sae_lens_ext", "check", str(FOLDER / "killed")]
print(subprocess.run(check, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False).stdout)

# %% [markdown]
# ## A save that cannot be finished
#
# The disk is full: here, the system's call that flushes a file says so.

# %%
sae = ext.load_sae(FOLDER / "in_peace" / "sae")
fsync = os.fsync


def full(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


os.fsync = full
try:
    ext.save_sae(sae, FOLDER / "in_peace" / "sae")
except OSError as error:
    print(error)
finally:
    os.fsync = fsync
ext.load_sae(FOLDER / "in_peace" / "sae").cfg.d_sae

# %% [markdown]
# Expected: a sentence with the path, and the SAE that was there, which still loads.
#
# ## A bad call
#
# What cannot be right is refused by this package's functions before anything is computed, with what was given and what to do.

# %%
vectors = ext.SteeringVectors({4: torch.ones(576)})
for call in (
    lambda: ext.match_features(sae, 12),
    lambda: ext.with_k(sae, 512.0),
    lambda: ext.SteeringVectors({4: torch.full((576,), torch.nan)}),
    lambda: vectors * float("inf"),
):
    try:
        call()
    except (TypeError, ValueError) as error:
        print(f"{type(error).__name__}: {error}\n")

# %% [markdown]
# Expected: four sentences, none of which is torch's.

# %%
temporary.cleanup()
