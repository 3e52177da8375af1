"""Does taking a feature's predecessor away take the feature away? The card's table, on the embedded model (2502.03032, Table 1).

35 texts, five tokens of each, at most 25 active features at a token. First the residual predecessor at ten layers by every method,
then the MLP's and the attention's by the largest cosine. Minutes on two cores, after benchmarks/flow_saes.py.

    python benchmarks/flow_deactivation.py
"""

import time

import numpy as np
from flow_saes import LAYERS, TEXTS, flow_saes
from result import write_figure, write_result

from sae_lens_ext import deactivation_test, embedded_texts, load_embedded_model

PIECE, N_PIECES = 600, 180
"""Characters of a piece of text, and pieces of each text."""
N_TEXTS, TOKENS_PER_TEXT, MAX_FEATURES = 35, 5, 25
COMPARED = ("permutation", "random_of_top_5", "pearson", "random_active", "exhaustive")


def documents() -> list[str]:
    """Give pieces of equal length of the four texts' held-out documents, equally many of each, in turn."""
    pieces = []
    for name in TEXTS:
        found = [
            document[start : start + PIECE]
            for document in embedded_texts(name, split="test")
            for start in range(0, len(document) - PIECE + 1, PIECE)
        ]
        pieces.append([found[i] for i in np.random.default_rng(0).permutation(len(found))[:N_PIECES]])
    return [piece for row in zip(*pieces, strict=True) for piece in row]


def main() -> None:
    """Measure and write the result."""
    model, saes, texts = load_embedded_model("bridge"), flow_saes(), documents()
    settings = {
        "n_texts": N_TEXTS,
        "tokens_per_text": TOKENS_PER_TEXT,
        "max_features": MAX_FEATURES,
        "layers": list(LAYERS[1:]),
    }
    found, seconds = {}, {}
    for name, factor, options in (
        ("residual", 0.0, {"predecessors": ("residual",)}),
        ("modules", 0.0, {"predecessors": ("mlp", "attention"), "methods": ("cosine",)}),
        ("residual_over_subtracted", -1.0, {"predecessors": ("residual",), "methods": ("cosine",)}),
    ):
        start = time.perf_counter()
        result = deactivation_test(model, saes, texts, factor=factor, autocast=True, **settings, **options)
        seconds[name] = round(time.perf_counter() - start, 1)
        print(result)
        frame = result.to_frame()
        found[name] = {
            "rows": frame.astype(object).where(frame.notna(), None).to_dict("records"),
            "n_targets": len(result.feature),
            "differences": [
                {"of": of, **vars(result.difference("cosine", other, of=of))}
                for other in COMPARED
                if other in result.methods and "residual" in result.kinds
                for of in ("activation_change", "success")
            ],
        }
        if name == "residual":
            write_figure(__file__, result.plot())
    write_result(__file__, {"settings": settings, "seconds": seconds, **found})


if __name__ == "__main__":
    main()
