"""The geometry of stable and unstable latents: effective rank, what one seed's subspace holds of the others', and a linear probe.

Eight seeds of TopK, four of HierarchicalTopK and of Kron (benchmarks/stability_saes.py).

    python benchmarks/stability_geometry.py
"""

from domain_saes import GENERAL, cached_activations
from result import write_figure, write_result
from stability import RATE_TOKENS
from stability_saes import D_IN, stability_saes

from sae_lens_ext import feature_stability, firing_rates_on, stability_probe, subspace_report

N_SEEDS = 8
MEASURES = ("f1", "balanced_f1", "precision", "recall", "auc", "always_unstable_f1")


def main() -> None:
    """Measure and write the result and the figure."""
    activations = cached_activations(GENERAL)[0][:RATE_TOKENS]
    found = {}
    for name, saes in stability_saes().items():
        own = saes[:N_SEEDS]
        report = feature_stability(own, firing_rates=firing_rates_on(own, activations))
        subspaces = subspace_report(own, report)
        probe = stability_probe(own, report)
        print(name, subspaces, probe, sep="\n")
        found[name] = {
            "seeds": len(own),
            "n_rows": subspaces.n_rows,
            "no_copy_share": subspaces.no_copy_share.tolist(),
            "subspaces": subspaces.summary().to_dict("records"),
            "energies": subspaces.to_frame().to_dict("records"),
            "probe": {
                kind: {measure: probe.measure(measure, kind) for measure in MEASURES}
                for kind in ("others", "others_seen", "own", "shuffled")
            },
        }
        if name == "topk":
            write_figure(__file__, subspaces.plot())
    write_result(__file__, {"d_in": D_IN, "architectures": found})


if __name__ == "__main__":
    main()
