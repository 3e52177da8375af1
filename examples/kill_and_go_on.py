"""Kill a training, go on from what it left, and find that nothing was lost; then break a file, and find that too.

    python examples/kill_and_go_on.py

A KronSAE is trained twice on the embedded model: once in peace, once killed (SIGKILL, as the system does when memory runs out) and taken up again by
the same call. The two are equal to the last bit. Needs `sae-lens-ext install-embedded`; a minute on two cores.
"""

import multiprocessing
import os
import time
from pathlib import Path

import torch
from sae_lens import LanguageModelSAERunnerConfig, LoggingConfig
from safetensors.torch import load_file

import sae_lens_ext as ext
from sae_lens_ext.checkpoints import latest_checkpoint
from sae_lens_ext.cli.quiet import quieten
from sae_lens_ext.cli.sources import load_dataset

SMALL = bool(os.environ.get("SAE_LENS_EXT_SMALL"))  # set by run_all.py, for continuous integration
TOKENS = 8_192 if SMALL else 32_768


def train(folder: Path) -> None:
    """Train an SAE, or go on from the last whole checkpoint in its folder."""
    quieten()
    torch.set_num_threads(1)
    last = latest_checkpoint(folder / "checkpoints" / "run")
    cfg = LanguageModelSAERunnerConfig(
        sae=ext.KronTrainingSAEConfig(d_in=576, d_sae=512, k=16, base_dim=2, extension_dim=4),
        model_name="embedded",
        model_class_name="TransformerBridge",
        hook_name="blocks.4.hook_out",
        dataset_path="embedded:recipes",
        training_tokens=TOKENS,
        train_batch_size_tokens=512,
        context_size=128,
        store_batch_size_prompts=4,
        n_batches_in_buffer=16,
        lr=3e-3,
        n_checkpoints=4,
        checkpoint_path=str(folder / "checkpoints"),
        output_path=str(folder / "sae"),
        resume_from_checkpoint=None if last is None else str(last),
        device="cpu",
        logger=LoggingConfig(log_to_wandb=False, wandb_id="run"),
    )
    model = ext.load_embedded_model("bridge")
    ext.DataParallelRunner(cfg, override_model=model, override_dataset=load_dataset(cfg.dataset_path)).run()


def start(folder: Path) -> multiprocessing.process.BaseProcess:
    """Start the training in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=train, args=(folder,))
    process.start()
    return process


def main() -> None:
    """Train in peace, train with a kill, compare, and break a file."""
    peace, killed = Path("in_peace"), Path("killed")
    start(peace).join()

    process = start(killed)
    while latest_checkpoint(killed / "checkpoints" / "run") is None:
        time.sleep(0.02)
    process.kill()
    process.join()
    print("Killed. What it left:")
    for saved in ext.check_saved(killed):
        print(f"  {saved.path}: {saved.problem or saved.kind}")

    start(killed).join()
    one, other = (load_file(folder / "sae" / "sae_weights.safetensors") for folder in (peace, killed))
    equal = all(torch.equal(one[name], other[name]) for name in one)
    print(f"Taken up again, it ends with {'the same weights to the bit' if equal else 'OTHER WEIGHTS'}.")

    weights = killed / "sae" / "sae_weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1000] ^= 1  # one bit of one weight
    weights.write_bytes(data)
    try:
        ext.load_sae(killed / "sae")
    except ValueError as error:
        print(f"One bit flipped: {error}")
    if not equal:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
