"""The same job in one process and over 2 and 4 ranks, on the embedded model: are the SAEs the same?

Data parallel and tensor parallel training are compared weight by weight at every checkpoint, and by explained variance at the end; divided
seeds to the bit. The ranks share two cores, so that the seconds say nothing of a cluster.

    python benchmarks/scale_equality.py
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from result import write_result
from sae_lens import SAE
from sae_lens.constants import SAE_WEIGHTS_FILENAME
from safetensors.torch import load_file
from scale_jobs import PLAIN_TOPK, SETTINGS, checkpoints, start

from sae_lens_ext import embedded_texts, evaluate_domains, load_embedded_model

CACHE = Path(__file__).parent / ".cache" / "scale"
TOKENS, SEED_TOKENS = 153_600, 30_720
N_CHECKPOINTS = 14
SEEDS = "0,1,2,3"
JOBS = {"data": (2, 4), "tensor": (2, 4)}


def difference(a: Path, b: Path) -> dict[str, float]:
    """Compare two checkpoints: the largest difference of a weight, and the share of latents that differ by more than 1e-5."""
    first, second = (load_file(path / SAE_WEIGHTS_FILENAME) for path in (a, b))
    largest = max(float((first[name] - second[name]).abs().max()) for name in first)
    rows = (first["W_dec"] - second["W_dec"]).abs().amax(dim=1)
    return {"largest_difference": largest, "latents_beyond_1e-5": float((rows > 1e-5).float().mean())}


def trained(name: str, n: int, **changes: str | None) -> float:
    """Train once, from nothing, and give the seconds."""
    shutil.rmtree(CACHE / name, ignore_errors=True)
    return start(CACHE / name, n, **changes).finished()


def one_sae() -> dict[str, Any]:
    """Train one SAE in all ways."""
    settings = {"training_tokens": str(TOKENS), "n_checkpoints": str(N_CHECKPOINTS)}
    seconds = {"one process": trained("one", 0, **settings)}
    for parallel, sizes in JOBS.items():
        for n in sizes:
            seconds[f"{parallel}, {n} ranks"] = trained(f"{parallel}_{n}", n, parallel=parallel, **settings)
    of_one = checkpoints(CACHE / "one")
    curves = {
        f"{parallel}, {n} ranks": {
            tokens: difference(path, of_one[tokens])
            for tokens, path in checkpoints(CACHE / f"{parallel}_{n}").items()
        }
        for parallel, sizes in JOBS.items()
        for n in sizes
    }
    return {"seconds": seconds, "against_one_process": curves, "held_out": held_out()}


def held_out() -> list[dict[str, Any]]:
    """Measure the finished SAEs on held-out text."""
    names = ["one", *(f"{parallel}_{n}" for parallel, sizes in JOBS.items() for n in sizes)]
    saes = {name: SAE.load_from_disk(CACHE / name / "sae") for name in names}
    documents = list(embedded_texts("encyclopedia", split="test"))
    report = evaluate_domains(load_embedded_model("hooked"), saes, {"encyclopedia": documents}, autocast=True)
    return report.to_frame()[["sae", "ev", "ce_score", "l0"]].to_dict("records")


def seeds() -> dict[str, Any]:
    """Train four seeds in one process and over ranks."""
    settings = {"training_tokens": str(SEED_TOKENS), "seeds": SEEDS, **PLAIN_TOPK}
    names = {0: "seeds_1", 2: "seeds_2", 4: "seeds_4"}
    seconds = {f"{n or 1} processes": trained(name, n, **settings) for n, name in names.items()}

    def weights(folder: str, seed: str) -> dict[str, torch.Tensor]:
        return load_file(CACHE / folder / "sae" / f"seed_{seed}" / SAE_WEIGHTS_FILENAME)

    same = {
        f"{n} ranks": all(
            torch.equal(tensor, weights(names[n], seed)[key])
            for seed in SEEDS.split(",")
            for key, tensor in weights("seeds_1", seed).items()
        )
        for n in (2, 4)
    }
    return {"tokens": SEED_TOKENS, "seeds": SEEDS, "seconds": seconds, "equal_to_the_bit": same}


def main() -> None:
    """Train, compare and write the result."""
    result = {"settings": SETTINGS, "tokens": TOKENS, "one_sae": one_sae(), "divided_seeds": seeds()}
    write_result(__file__, result)


if __name__ == "__main__":
    main()
