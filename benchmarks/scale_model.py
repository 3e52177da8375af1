"""What a step over N GPUs costs, on paper: bytes over the wire, seconds, and where it stops scaling; and the parts that can be measured here.

Counts are exact; rates are data-sheet figures with a share of them taken as reached, given in RATES. Nothing here was run on a GPU. What is
measured is the form of the model: a collective's seconds as latency plus bytes over a rate, with gloo between two
processes of this machine.

    python benchmarks/scale_model.py
"""

import statistics
import time
from typing import Any

import torch
import torch.distributed as dist
from two_ranks import of_two_ranks

FLOAT = 4
RATES = {
    "matrix products, bfloat16, FLOP/s a GPU": 0.4 * 989e12,
    "matrix products, TF32, FLOP/s a GPU": 0.4 * 494e12,
    "memory, bytes/s a GPU": 0.7 * 3.35e12,
    "NVLink, bytes/s a GPU and direction": 0.8 * 450e9,
    "network adapter, bytes/s and direction": 0.8 * 50e9,
    "latency of a collective, s": 50e-6,
}
"""H100 SXM in machines of eight, adapters of 400 Gbit/s; the shares 0.4, 0.7 and 0.8 are assumptions."""
GPUS_A_MACHINE = 8
ALL_TO_ALL = ("activations to the ranks that train on them", "activations to all ranks")
"""What is sent from each rank to each other; all else goes round a ring, or several, one for each adapter."""
GEMMA_2_2B = {"d_in": 2_304, "parameters read up to layer 12 of 26": 12 * 77.9e6}
"""A block has 77.9 million parameters: 8 query and 4 key-value heads of 256, and a gated MLP of 9,216."""
SMALL_MESSAGES = (1, 2**10, 2**14, 2**18, 2**20, 2**22, 2**24)


def dense_bytes(width: int, d_in: int) -> int:
    """Give the bytes of all gradients of a TopK SAE in float32."""
    return FLOAT * (2 * width * d_in + width + d_in)


def ring(n: int) -> float:
    """Give how many times a tensor's bytes leave each rank in an all-reduce of the ring form."""
    return 2 * (n - 1) / n


def wire_seconds(sent: dict[str, float], n: int, adapters: int) -> float:
    """Give the seconds of a step's eight or so exchanges, none of which overlaps with work.

    A ring crosses the border of a machine once each way: between machines all its adapters together carry what NVLink carries
    within. From each rank to each other, almost everything crosses a border.

    Args:
        sent: Bytes that leave each GPU, by what they are.
        n: GPUs.
        adapters: Network adapters a machine.
    """
    if n == 1:
        return 0.0
    ring_rate = all_to_all_rate = RATES["NVLink, bytes/s a GPU and direction"]
    if n > GPUS_A_MACHINE:
        of_machine = adapters * RATES["network adapter, bytes/s and direction"]
        ring_rate, all_to_all_rate = min(ring_rate, of_machine), of_machine / GPUS_A_MACHINE
    seconds = sum(b / (all_to_all_rate if what in ALL_TO_ALL else ring_rate) for what, b in sent.items())
    return seconds + 8 * RATES["latency of a collective, s"]


def compute_seconds(tokens: int, width: int, d_in: int, k: int, held: float) -> dict[str, float]:
    """Give the seconds of one GPU's own work in a step.

    Args:
        tokens: Tokens that it encodes.
        width: F.
        d_in: Width of the activations.
        k: Latents a token.
        held: Share of the SAE's latents that it holds and updates.
    """
    tf32, memory = RATES["matrix products, TF32, FLOP/s a GPU"], RATES["memory, bytes/s a GPU"]
    return {
        "encoder": 2 * tokens * d_in * width * held / tf32,
        # k rows of d_in read and written a token: decoding, the decoder's and the encoder's gradient.
        "sparse parts": 6 * tokens * k * d_in * FLOAT * held / memory,
        # Adam reads weight, gradient and two moments and writes three of them; clipping reads and writes the gradient.
        "optimizer and clipping": 9 * 2 * width * d_in * FLOAT * held / memory,
    }


def model_seconds(tokens: int) -> float:
    """Give the seconds of the language model's forward pass up to the hook."""
    flop = 2 * GEMMA_2_2B["parameters read up to layer 12 of 26"] * tokens
    return flop / RATES["matrix products, bfloat16, FLOP/s a GPU"]


def data_parallel(n: int, width: int, batch: int, k: int, adapters: int = 8) -> dict[str, Any]:
    """Give a step's bytes and seconds in data parallel.

    Args:
        n: GPUs.
        width: F.
        batch: Tokens of the whole batch.
        k: Latents a token.
        adapters: Network adapters a machine.
    """
    d_in = int(GEMMA_2_2B["d_in"])
    sent = {
        "gradients": ring(n) * dense_bytes(width, d_in),
        "which rows are used, which latents fire": ring(n) * (2 * width + FLOAT * width),
        "activations to the ranks that train on them": (n - 1) / n * batch / n * d_in * FLOAT,
    }
    seconds = {
        "language model": model_seconds(batch // n),
        **compute_seconds(batch // n, width, d_in, k, 1.0),
        "wire": wire_seconds(sent, n, adapters),
    }
    return summary(sent, seconds, batch)


def tensor_parallel(n: int, width: int, batch: int, k: int, adapters: int = 8) -> dict[str, Any]:
    """Give a step's bytes and seconds with the latents divided; arguments as for `data_parallel`."""
    d_in = int(GEMMA_2_2B["d_in"])
    sent = {
        "candidates of the top-k": (n - 1) * batch * min(k, width // n) * FLOAT,
        "reconstructions": ring(n) * batch * d_in * FLOAT,
        "activations to all ranks": (n - 1) * batch / n * d_in * FLOAT,
    }
    seconds = {
        "language model": model_seconds(batch // n),
        **compute_seconds(batch, width, d_in, k, 1 / n),
        "wire": wire_seconds(sent, n, adapters),
    }
    return summary(sent, seconds, batch)


def summary(sent: dict[str, float], seconds: dict[str, float], batch: int) -> dict[str, Any]:
    """Add up a step."""
    total = sum(seconds.values())
    return {
        "bytes_a_rank": {**{what: round(n) for what, n in sent.items()}, "in all": round(sum(sent.values()))},
        "seconds": {**seconds, "in all": total},
        "tokens_a_second": batch / total,
        "share_of_the_wire": seconds["wire"] / total,
        "hours_for_1e9_tokens": 1e9 / batch * total / 3600,
    }


def divided_seeds(n_saes: int, n: int, width: int, batch: int, k: int) -> dict[str, Any]:
    """Give what `n_saes` SAEs cost that are divided over `n` GPUs, each of which runs the model on all tokens; nothing is sent but a flag a step."""
    d_in, own = int(GEMMA_2_2B["d_in"]), -(-n_saes // n)
    of_one = sum(compute_seconds(batch, width, d_in, k, 1.0).values())
    seconds = {
        "language model": model_seconds(batch),
        "SAEs": own * of_one,
        "wire": RATES["latency of a collective, s"],
    }
    total = sum(seconds.values())
    return {
        "saes_a_gpu": own,
        "seconds_a_step": {**seconds, "in all": total},
        "hours_for_1e9_tokens": 1e9 / batch * total / 3600,
        "gigabytes_a_gpu": own * 4 * 2 * width * d_in * FLOAT / 1e9,
        "hours_on_one_gpu": 1e9 / batch * (model_seconds(batch) + n_saes * of_one) / 3600,
    }


def measured_collectives(rounds: int = 7) -> dict[str, Any]:
    """Measure all-reduce by gloo between two processes, and fit latency and rate."""

    def all_reduces() -> dict[int, Any]:
        found = {}
        for n in SMALL_MESSAGES:
            tensor, times = torch.ones(n), []
            for _ in range(rounds):
                dist.barrier()
                started = time.perf_counter()
                dist.all_reduce(tensor)
                times.append(time.perf_counter() - started)
            found[n * FLOAT] = {"median": statistics.median(times), "range": [min(times), max(times)]}
        return found

    seconds = of_two_ranks(all_reduces)
    largest = max(seconds)
    latency = seconds[min(seconds)]["median"]
    rate = ring(2) * largest / (seconds[largest]["median"] - latency)
    predicted = {n: latency + ring(2) * n / rate for n in seconds}
    return {
        "seconds_by_bytes": seconds,
        "latency": latency,
        "bytes_a_second": rate,
        "predicted_by_bytes": predicted,
    }


def main() -> None:
    """Compute, measure and write the result."""
    from result import write_result

    per_gpu, k = 4_096, 64
    steps = {}
    for exponent in (16, 17):
        width = 2**exponent
        for n, adapters in ((1, 8), (8, 8), (64, 8), (64, 1)):
            for what, batch in (("4096 tokens a GPU", per_gpu * n), ("32768 tokens in all", 32_768)):
                steps[f"F = 2^{exponent}, {n} GPUs, {adapters} adapters a machine, {what}"] = {
                    "data parallel": data_parallel(n, width, batch, k, adapters),
                    "tensor parallel": tensor_parallel(n, width, batch, k, adapters),
                }
    seeds = {f"96 seeds of F = 2^{e}": divided_seeds(96, 8, 2**e, 4_096, k) for e in (14, 16)}
    write_result(
        __file__,
        {
            "rates": RATES,
            "model": GEMMA_2_2B,
            "k": k,
            "one_sae": steps,
            "many_saes_on_8_gpus": seeds,
            "measured": measured_collectives(),
        },
    )


if __name__ == "__main__":
    main()
