"""A match of features as a map from layer to layer: how much of the next layer it explains (2502.03032: 0.79 top-1, 0.78 permutation).

And how the one-to-one matches compose: the composition of neighbouring matches against the direct one, by distance (SAE Match,
2410.07656). Some minutes on two cores, after benchmarks/flow_saes.py.

    python benchmarks/flow_transition.py
"""

from flow_deactivation import documents
from flow_saes import LAYERS, flow_saes, hook
from result import write_result

from sae_lens_ext import load_embedded_model, match_features, transition_explained_variance

MAX_TOKENS = 32_768


def composition(saes: dict) -> list[dict]:
    """Give, by distance, how often composed and direct permutations agree, and the direct one's mean cosine."""
    rows = []
    step = {
        layer: match_features(
            saes[hook(layer, "residual")], saes[hook(layer + 1, "residual")], one_to_one=True
        )
        for layer in LAYERS[:-1]
    }
    for distance in range(1, len(LAYERS)):
        agree, cosine = [], []
        for first in LAYERS[: len(LAYERS) - distance]:
            composed = step[first]
            for layer in range(first + 1, first + distance):
                composed = composed.then(step[layer])
            direct = match_features(
                saes[hook(first, "residual")], saes[hook(first + distance, "residual")], one_to_one=True
            )
            both = (composed.indices >= 0) & (direct.indices >= 0)
            agree.append(float((composed.indices == direct.indices)[both].float().mean()))
            cosine.append(float(direct.scores.nanmean()))
        rows.append(
            {
                "distance": distance,
                "pairs": len(agree),
                "same_partner": round(sum(agree) / len(agree), 4),
                "direct_cosine": round(sum(cosine) / len(cosine), 4),
            }
        )
    return rows


def main() -> None:
    """Measure and write the result."""
    model, saes, texts = load_embedded_model("bridge"), flow_saes(), documents()
    layers = []
    for layer in LAYERS[:-1]:
        found = transition_explained_variance(
            model,
            saes[hook(layer, "residual")],
            saes[hook(layer + 1, "residual")],
            texts,
            fold=True,
            max_tokens=MAX_TOKENS,
            autocast=True,
            show_progress=False,
        )
        print(found)
        frame = found.to_frame().round(4).astype(object)
        rows = frame.where(frame.notna(), None).to_dict("records")
        layers.append({"from": layer, "to": layer + 1, "rows": rows})
    write_result(
        __file__,
        {"settings": {"max_tokens": MAX_TOKENS}, "layers": layers, "composition": composition(saes)},
    )


if __name__ == "__main__":
    main()
