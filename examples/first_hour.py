"""The first hour, from the command line: train, compare, augment, trace, steer, train vectors, read them.

Runs the commands one after the other as you would type them, shows what each says, and writes how long each took to hour.json. All
their files are left in the folder `hour`, eight pages among them to open in a browser. Run it again and it goes on where it was: what
is finished is not done anew.

Took 33 minutes on two cores that had other work, too. SAE_LENS_EXT_SMALL=1 makes it a run of three minutes whose numbers mean nothing.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from sae_lens_ext import load_sae, match_features

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
FOLDER = Path("hour")
RECORD = FOLDER / "hour.json"
LAYERS = (8, 9)  # layer 10 has the seeds
TOKENS = 4_096 if SMALL else 200_000

SAE = f"""--architecture hierarchical_topk --d_in 576 --d_sae {256 if SMALL else 1024} --k 32 --model_name embedded
    --model_class_name TransformerBridge --dataset_path embedded:encyclopedia --context_size 128 --training_tokens {TOKENS}
    --train_batch_size_tokens 1024 --store_batch_size_prompts 8 --n_batches_in_buffer {16 if SMALL else 64} --lr 3.2e-3
    --autocast_lm true --exclude_special_tokens true --log_to_wandb false"""
VECTORS = "--steps 1 --prompts-per-step 4 --group-size 8 --samples 1 --held-out 2" if SMALL else "--steps 8"
# A few samples are never a right sum; whether they are long tells them apart.
REWARD = "--reward length --unit characters --min 24" if SMALL else "--reward last_number"
EVALUATION = "--tokens 1024" if SMALL else "--tokens 16384"


def commands(feature: int) -> dict[str, str]:
    """Give the hour's commands by what they are for; `feature` is the latent of layer 9 to trace and to steer with."""
    seeds, layers, python = FOLDER / "seeds", FOLDER / "layers", FOLDER / "python"
    return {
        "what is there": "describe hierarchical_topk",
        "train an SAE from three seeds": f"train {SAE} --hook_name blocks.10.hook_out --seeds 0,1,2 --output_path {seeds}",
        "compare them": f"stability {seeds} --out {FOLDER}/stability {EVALUATION}",
        "teach one of them Python": f"augment {seeds}/seed_0 --domain python=embedded:python_source --out {python} "
        + ("--tiny" if SMALL else f"--training-tokens {TOKENS}"),
        **{
            f"train one at layer {layer}": f"train {SAE} --hook_name blocks.{layer}.hook_out --seed {layer} --output_path {layers}/blocks.{layer}.hook_out"
            for layer in LAYERS
        },
        "trace a feature": f"flow {layers} {seeds}/seed_0 --start 9/res/{feature} --text embedded:encyclopedia --out {FOLDER}/flow {EVALUATION}",
        "steer with it": f'steer {layers}/blocks.9.hook_out --feature {feature} --prompt "I would like to tell you about" --max-new-tokens {4 if SMALL else 24}',
        "train steering vectors": f"train-vectors {FOLDER}/sums.jsonl {REWARD} --chat --max-new-tokens 6 --lr 1e-2 --out {FOLDER}/vectors {VECTORS}",
        "read them": f"lens {FOLDER}/vectors/vectors.safetensors --layers 14,28,29 --html {FOLDER}/lens.html",
        "let the model read earlier layers": f"train-lime --text embedded:encyclopedia --out {FOLDER}/lime --autocast "
        + (
            "--training-tokens 1024 --held-out 512 --batch-size 2"
            if SMALL
            else "--training-tokens 20000 --held-out 4096"
        ),
        "look at collapse": f"collapse --text embedded:encyclopedia --out {FOLDER}/collapse.json --no-words --autocast --skip-positions 1 {EVALUATION}",
        "is all of it whole": f"check {FOLDER}",
        "how would it be published": f"upload {seeds}/seed_0 --repo me/my-saes --license mit --card-only",
    }


def feature_to_follow() -> int:
    """Give the latent of layer 9 with the closest match at layer 8, of those that fire at about one token in a hundred."""
    below, here = (FOLDER / "layers" / f"blocks.{layer}.hook_out" for layer in LAYERS)
    firing = load_file(here / "sparsity.safetensors")["sparsity"]  # log10 of the share of tokens
    score = match_features(load_sae(here), load_sae(below)).scores[:, 0]
    return int(torch.where((firing > -2.5) & (firing < -1.5), score, -1.0).argmax())


def write_sums() -> None:
    """Write the tasks for the steering vectors, in the form that `train-vectors` reads."""
    sums = [{"prompt": f"What is {a} + {b}?", "answer": a + b} for a in range(2, 20) for b in range(2, 10)]
    (FOLDER / "sums.jsonl").write_text("".join(json.dumps(task) + "\n" for task in sums))


def run(command: str) -> float:
    """Run a command of `sae-lens-ext`, and give how many seconds it took."""
    print(f"$ sae-lens-ext {' '.join(command.split())}", flush=True)
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "sae_lens_ext", *shlex.split(command)], check=True)
    return time.monotonic() - started


def main() -> None:
    """Run what has not been run yet."""
    FOLDER.mkdir(exist_ok=True)
    write_sums()
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for job in commands(0):
        if job in record:
            continue
        print(f"\n=== {job} ===", flush=True)
        # Only the jobs after the training at layer 9 need the feature.
        feature = feature_to_follow() if f"train one at layer {LAYERS[-1]}" in record else 0
        record[job] = round(run(commands(feature)[job]), 1)
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{sum(record.values()) / 60:.0f} minutes in all:")
    for job, seconds in record.items():
        print(f"  {seconds:7.1f} s  {job}")
    print("To look at in a browser:", *sorted(str(page) for page in FOLDER.rglob("*.html")), sep="\n  ")


if __name__ == "__main__":
    main()
