"""Which predecessors of a feature are active where the feature is, and whether its scores foretell it (2502.03032, data-based check).

The card's form: 250 samples of each of four texts, five random tokens of each, never BOS; Mann-Whitney tests between the groups; then
the origin by scores against the origin by activity. Minutes on two cores, after benchmarks/flow_saes.py.

    python benchmarks/flow_activity.py
"""

import pandas as pd
from flow_saes import LAYERS, TEXTS, flow_saes
from result import write_figure, write_result

from sae_lens_ext import embedded_texts, load_embedded_model, origin_agreement, predecessor_activity

N_SAMPLES, TOKENS_PER_SAMPLE = 250, 5


def known(frame: pd.DataFrame) -> list[dict]:
    """Give a frame's rows for JSON, which has no NaN."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def main() -> None:
    """Measure and write the result."""
    model = load_embedded_model("bridge")
    texts = {name: embedded_texts(name, split="test") for name in TEXTS}
    activity = predecessor_activity(
        model,
        flow_saes(),
        texts,
        layers=LAYERS[1:],  # layer 0 has no stream before it
        n_samples=N_SAMPLES,
        tokens_per_sample=TOKENS_PER_SAMPLE,
        autocast=True,
    )
    print(activity)
    groups = activity.groups().groupby(["layer", "group"], observed=False)["count"].sum().unstack("group")
    tests = {unit: known(activity.significant(unit).round(4)) for unit in ("occurrence", "feature")}
    agreement = {}
    for thresholds in ("null", "paper"):
        found = origin_agreement(activity.with_thresholds(thresholds))
        agreement[thresholds] = {
            "by_layer": known(found.to_frame().round(4)),
            "confusion": found.table().to_dict("index"),
        }
        print(thresholds, found)
    write_figure(__file__, activity.plot(), height=460)
    write_figure(__file__.replace(".py", "_tests.py"), activity.plot_tests("feature"), height=620)
    write_result(
        __file__,
        {
            "settings": {
                "texts": list(TEXTS),
                "samples": dict(activity.text_sizes),
                "tokens": activity.n_tokens,
                "occurrences": len(activity.occurrences.group),
                "alpha": 0.001,
                "unexplained_means": "no predecessor counts (scores) or none is active (activity)",
            },
            "groups": {int(layer): row.to_dict() for layer, row in groups.iterrows()},
            "significant_tests": tests,
            "origin_agreement": agreement,
        },
    )


if __name__ == "__main__":
    main()
