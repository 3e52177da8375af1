"""What a whole model's flow graph costs at Gemma Scope's size: 26 layers, three sites each, 16,384 features, d_model 2,304.

The dictionaries are made up and lie on disk, as a user's do: a share of each layer's residual features are noisy copies of the layer's
before. And one pair of sites against what one would write: the matrix of cosines by chunks in float32, in the same run.

    python benchmarks/flow_scale.py [--layers 26] [--d-sae 16384]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from interleaved import interleaved
from result import write_result
from sae_lens import SAE, TopKSAE, TopKSAEConfig

from sae_lens_ext import flow_map
from sae_lens_ext.analysis.flow.match import best_matches

D_MODEL = 2304
SHARED, NOISE = 0.5, 0.6
ROUNDS = 5
OURS, PLAIN = "best_matches", "torch.matmul in float32, by chunks of 1,024"
SITES = ("hook_resid_post", "hook_mlp_out", "hook_attn_out")


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Give rows at unit length."""
    return torch.nn.functional.normalize(rows, dim=1)


def write_saes(folder: Path, n_layers: int, d_sae: int) -> list[Path]:
    """Save made-up SAEs in bfloat16, encoder and all, as a user's lie on disk."""
    generator = torch.Generator().manual_seed(0)
    before = unit(torch.randn(d_sae, D_MODEL, generator=generator))
    found = []
    for layer in range(n_layers):
        for site in SITES:
            rows = unit(torch.randn(d_sae, D_MODEL, generator=generator))
            if site == "hook_resid_post":
                shared = int(SHARED * d_sae)
                rows[:shared] = unit(before[:shared] + NOISE * rows[:shared])
                before = rows
            sae: SAE = TopKSAE(TopKSAEConfig(d_in=D_MODEL, d_sae=d_sae, k=64, dtype="bfloat16"))
            sae.W_dec.data = rows.bfloat16()
            sae.cfg.metadata.hook_name = f"blocks.{layer}.{site}"
            sae.save_model(folder / f"{layer}_{site}")
            found.append(folder / f"{layer}_{site}")
    return found


def plain(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Match as one would write it."""
    return torch.cat([(part @ b.T).max(dim=1).values for part in a.split(1024)])


def map_folder(folder: Path) -> None:
    """Make the graph of the SAEs in a folder, in a process of its own, and print what it took as JSON."""
    paths = sorted(folder.iterdir())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    graph = flow_map(paths)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {
        "seconds": round(seconds, 1),
        "nodes": len(graph.node_hook),
        "edges": len(graph.edge_score),
        "peak_mib": round(after / 1024),
        "peak_mib_above_imports": round((after - before) / 1024),
    }
    print(json.dumps(found))


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--d-sae", type=int, default=16_384)
    parser.add_argument("--map", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.map is not None:
        map_folder(options.map)
        return
    generator = torch.Generator().manual_seed(1)
    a, b = (unit(torch.randn(options.d_sae, D_MODEL, generator=generator)) for _ in range(2))
    pair = interleaved(
        {PLAIN: partial(plain, a, b), OURS: partial(best_matches, a, b)},
        rounds=ROUNDS,
        warm_up=1,
        against=PLAIN,
    )
    print(pair)
    del a, b
    with tempfile.TemporaryDirectory() as name:
        write_saes(Path(name), options.layers, options.d_sae)
        megabytes = sum(f.stat().st_size for f in Path(name).rglob("*") if f.is_file()) / 2**20
        done = subprocess.run(
            [sys.executable, __file__, "--map", name], check=True, text=True, stdout=subprocess.PIPE
        )
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    write_result(
        __file__,
        {
            "settings": {"layers": options.layers, "d_sae": options.d_sae, "d_model": D_MODEL},
            "pair_of_sites": pair,
            "flow_map": found,
            "saes_on_disk_mib": round(megabytes),
        },
    )


if __name__ == "__main__":
    main()
