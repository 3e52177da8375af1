"""Memory while ten million tokens are read: every reader in a process of its own, its resident set sampled on the way.

The model is a random Llama of one layer, d_model 64; the SAEs have 1,024 latents. What is sampled is memory that is no page of a file, so that
the data set of the training, mapped into memory, does not count. Linux only.

python benchmarks/reliability_load.py         writes reliability_load.json and .svg; about an hour on one core
python benchmarks/reliability_load.py top_activations     measures some readers only; what was measured before is kept in .cache
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch
from own_process import in_own_process
from result import write_figure, write_result

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.reliability.load.memory import MemoryCurve, peak_mib, slope
from tests.reliability.load.readers import BATCH, D_SAE, READERS
from tests.reliability.load.stream_model import D_MODEL, HOOK, load_model, save_model

N_TOKENS = 10_000_000
EVERY = 100_000
FIT_FROM = 2_000_000
CACHE = Path(__file__).parent / ".cache" / "reliability_load"
BY_DESIGN = {
    "collapse_report": "keeps up to 2 GiB of activations for the second pass of z-scoring, then drops them and runs the model again",
}


def main() -> None:
    """Measure what was not measured yet, draw, write; with --one, measure a single reader in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER", default=[])
    parser.add_argument("--one", metavar="READER")
    parser.add_argument("--tokens", type=int, default=N_TOKENS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.tokens)))
        return
    for name in args.readers or READERS:
        if not _cached(name, args.tokens).exists():
            _in_own_process(name, args.tokens)
    _report(args.tokens)


def measure(name: str, n_tokens: int) -> dict[str, Any]:
    """Let one reader read, and say how its memory went."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=_scratch()) as scratch:
        folder = Path(scratch)
        model = load_model(save_model(folder / "model"))
        curve, started = MemoryCurve(EVERY), time.monotonic()
        with curve.watching(model, HOOK):
            READERS[name](model, n_tokens, folder)
        return {
            "tokens": curve.tokens,
            "seconds": round(time.monotonic() - started, 1),
            "mib_per_million_tokens": round(slope(curve.samples, FIT_FROM * n_tokens // N_TOKENS), 3),
            "mib_at_first_token": curve.samples[0][1],
            "mib_at_last_token": curve.samples[-1][1],
            "largest_mib_while_reading": max(mib for _, mib in curve.samples),
            "peak_resident_mib": round(peak_mib(), 1),
            "curve": curve.samples,
        }


def _in_own_process(name: str, n_tokens: int) -> None:
    line = in_own_process(__file__, "--one", name, "--tokens", str(n_tokens))
    if line is None:
        return
    found = json.loads(line)
    _cached(name, n_tokens).write_text(json.dumps(found))
    print(name, {key: value for key, value in found.items() if key != "curve"}, flush=True)


def _cached(name: str, n_tokens: int) -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    return CACHE / f"{name}_{n_tokens}.json"


def _scratch() -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    return CACHE


def _report(n_tokens: int) -> None:
    found = {
        name: json.loads(_cached(name, n_tokens).read_text())
        for name in READERS
        if _cached(name, n_tokens).exists()
    }
    setting = {
        "tokens": n_tokens,
        "d_model": D_MODEL,
        "d_sae": D_SAE,
        "train_batch_size_tokens": BATCH,
        "fit_from_token": FIT_FROM,
    }
    write_result(__file__, {"setting": setting, "by_design": BY_DESIGN, "readers": found})
    figure = go.Figure()
    for name, reader in found.items():
        tokens, mib = zip(*reader["curve"], strict=True)
        label = f"{name} ({reader['mib_per_million_tokens']:+.2f} MiB / M tokens)"
        figure.add_scatter(name=label, x=tokens, y=mib, mode="lines")
    figure.update_layout(
        title="Memory while ten million tokens are read",
        xaxis_title="tokens read by the model",
        yaxis={"title": "MiB", "rangemode": "tozero"},
    )
    write_figure(__file__, figure)


if __name__ == "__main__":
    main()
