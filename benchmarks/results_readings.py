"""What docs/results.md says of each benchmark, read from its JSON."""

import json
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

FOLDER = Path(__file__).resolve().parent


@cache
def result(name: str) -> Any:
    """Read the JSON of a benchmark."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def percent(value: float, digits: int = 1) -> str:
    """Format a signed change as a percentage."""
    text = f"{100 * value:+.{digits}f} %".replace("-", "−")
    return text if text.strip("+−0. %") else text[1:]  # no sign before a zero


def minus(value: float, form: str = "+.3f") -> str:
    """Format a number with its sign."""
    return format(value, form).replace("-", "−")


def _quickstart(sae: str, k: int) -> dict[str, Any]:
    return next(row for row in result("quickstart")["rows"] if row["sae"] == sae and row["k"] == k)


def against_each_topk() -> str:
    """One HierarchicalTopK against a TopK for each k."""
    pairs = [
        f"{k}: {_quickstart('hierarchical_topk_k64', k)['explained_variance']:.3f} against {_quickstart(f'topk_k{k}', k)['explained_variance']:.3f}"
        for k in (8, 16, 32, 64)
    ]
    return "explained variance of the one against a TopK for each k, at k = " + ", ".join(pairs)


def below_its_own_k() -> str:
    """A TopK and a HierarchicalTopK at smaller k than the largest."""
    rows = result("kron_budgets")["rows"]
    one, every = (
        rows[name]["explained_variance"] for name in ("topk, k = 64", "hierarchical_topk, all budgets")
    )
    return f"a TopK trained for 64 has {one['8']:.2f} at k = 8 and {one['32']:.2f} at 32, HierarchicalTopK {every['8']:.2f} and {every['32']:.2f}".replace(
        "-", "−"
    )


def dead_latents_of_hierarchical_topk() -> str:
    """Dead latents at the full budget."""
    ours, theirs = _quickstart("hierarchical_topk_k64", 64), _quickstart("topk_k64", 64)
    return f"{ours['dead_latents']} of 2,048 at its full budget, TopK with k = 64 {theirs['dead_latents']}"


def kron_against_topk() -> str:
    """Kron against TopK at equal tokens."""
    ours, theirs = _quickstart("kron_m2_n4_k32", 32), _quickstart("topk_k32", 32)
    return (
        f"at equal tokens {ours['explained_variance']:.3f} against {theirs['explained_variance']:.3f}, with "
        f"{ours['encoder_parameters'] / theirs['encoder_parameters'] * 100:.0f} % of the encoder (m = 2, n = 4); equal FLOPs were not tried"
    )


def dead_latents_of_kron() -> str:
    """Dead latents of Kron and of TopK."""
    ours, theirs = _quickstart("kron_m2_n4_k32", 32), _quickstart("topk_k32", 32)
    return f"{ours['dead_latents']} of Kron's 2,048 latents are dead, {theirs['dead_latents']} of TopK's"


def step_against_saelens(name: str) -> str:
    """A training step against SAELens' TopK."""
    row = result("train_step")["by_dead_latents"]["0"][name]
    return f"{row['ratio']:.1f} times ({row['ratio_q1']:.1f} to {row['ratio_q3']:.1f}) as fast as SAELens' `topk` in SAELens' trainer, CPU, 16,384 latents, k = 64"


def _changes(sae: str, domain: str) -> dict[str, float]:
    found = (row for row in result("residual")["changes"] if row["sae"] == sae and row["domain"] == domain)
    return next(found)


_OURS, _PAPERS = "residual, 10 % general text (our default)", "residual, domain only (paper)"


def domain_gain() -> str:
    """What residuals trained on the domain alone gain there."""
    return " and ".join(
        f"{percent(_changes(f'{domain}: {_PAPERS}', domain)['ev_change'])} ({name})"
        for domain, name in (("python", "Python source"), ("french", "French"))
    )


def domain_cross_entropy() -> str:
    """What our default takes from the cross-entropy that splicing adds."""
    return " and ".join(
        f"{percent(_changes(f'{domain}: {_OURS}', domain)['ce_increase_change'], 0)} ({name})"
        for domain, name in (("python", "Python source"), ("french", "French"))
    )


def general_harm(kind: str) -> str:
    """What one way of teaching a domain costs on general text."""
    return " and ".join(
        f"{percent(_changes(f'{domain}: {kind}', 'general')['ev_change'])} ({name})"
        for domain, name in (("python", "Python source"), ("french", "French"))
    )


def general_harm_of_residuals() -> str:
    """What residuals cost on general text, in the paper's way and in ours."""
    return (
        f"{general_harm(_PAPERS)}; with a tenth of general text mixed in, our default, {general_harm(_OURS)}"
    )


def two_domains_together() -> str:
    """What a domain loses when another is added."""
    both = [
        (1 + _changes(f"both: {_OURS}", domain)["ev_change"])
        / (1 + _changes(f"{domain}: {_OURS}", domain)["ev_change"])
        - 1
        for domain in ("python", "french")
    ]
    return f"two domains in one stack: each within {100 * max(abs(change) for change in both):.1f} % of its EV alone"


def stable_shares() -> str:
    """Shares of stable latents by architecture."""
    groups = result("stability")["four_seeds"]
    shares = [
        f"{name} {100 * groups[key][0]['stable']['mean']:.0f} %"
        for key, name in (
            ("topk", "TopK"),
            ("hierarchical_topk", "HierarchicalTopK"),
            ("kron", "Kron"),
        )
    ]
    return "stable in all of four seeds: " + ", ".join(shares)


def masked_latents() -> str:
    """What silencing N stable and 4N unstable latents of a TopK costs, medians over draws."""
    curve = result("stability_masking")["curves"]["topk, anchor 0, without dense latents"]
    rows = curve["n_stable_against_4n_unstable"]["32"]
    lost = {group: median(rows[group]["ev_lost"]) for group in ("stable", "unstable")}
    return f"TopK: {rows['stable']['n_masked']} stable ones cost {lost['stable']:.3f} of EV, {rows['unstable']['n_masked']} unstable ones {lost['unstable']:.3f}"


def probe_f1() -> str:
    """How well a probe finds unstable latents of seeds it has not seen."""
    probe = result("stability_geometry")["architectures"]["topk"]["probe"]["others"]
    return f"TopK {probe['f1'][0]:.2f}, below “always unstable” ({probe['always_unstable_f1'][0]:.2f}); AUC {probe['auc'][0]:.2f}"


def synthetic_recovery() -> str:
    """What comes back of features that are free and of features that are crowded."""
    by_rank = result("stability_synthetic")["by_rank"]["16"]
    free, crowded = by_rank["independent"], by_rank["low_rank"]
    return (
        f"p̂ {free['reappearance']['mean']:.2f} of the independent features, {crowded['reappearance']['mean']:.2f} of those in 16 dimensions, which lie there with "
        f"{crowded['projection_energy']['mean'] * 100:.0f} % of their squared length"
    )


def pooled_against_single() -> str:
    """Stability and EV of a pooled SAE and of a single one."""
    pooled, single = (
        result("stability_pooling")["pooled"]["reappearance, 1024"],
        result("stability_pooling")["single"],
    )
    return (
        f"share that comes back {pooled['reappears_in_the_other']['mean']:.2f} against {single['reappears_in_another']['mean']:.2f} of a single SAE; "
        f"EV {pooled['ev_retrained_encoders'][0]:.2f} against {single['ev']['mean']:.2f}"
    )


def pw_mcc() -> str:
    """PW-MCC of TopK."""
    return f"{result('stability')['all_seeds']['topk']['pw_mcc']:.2f}"


def effective_ranks() -> str:
    """Effective ranks of groups of one size."""
    subspaces = result("stability_geometry")["architectures"]["topk"]["subspaces"]
    shares = {row["group"]: row["er_over_d"] for row in subspaces}
    return (
        ", ".join(f"{group} {share:.3f}" for group, share in shares.items()) + " of d, in groups of one size"
    )


def _deactivation(method: str) -> dict[str, float]:
    rows = result("flow_deactivation")["residual"]["rows"]
    return next(
        row for row in rows if row["layer"] is None and row["method"] == method and row["set"] == "own"
    )


def deactivation_by_method() -> str:
    """Activation change and success, by how the predecessor is named."""
    rows = {
        name: _deactivation(key)
        for key, name in (
            ("cosine", "largest cosine"),
            ("pearson", "Pearson"),
            ("exhaustive", "exhaustive"),
            ("random_of_top_5", "random of five"),
        )
    }
    return "; ".join(
        f"{name} {row['mean_activation_change']:.2f}, {100 * row['success']:.0f} %"
        for name, row in rows.items()
    )


def transition_ev() -> str:
    """Explained variance of the match as a map, mean over layers."""
    layers = result("flow_transition")["layers"]

    def mean(name: str) -> float:
        values = [
            row["ev"]
            for layer in layers
            for row in layer["rows"]
            if row["name"] == name and not row["folded"]
        ]
        return sum(values) / len(values)

    return f"{mean('cosine'):.2f} and {mean('permutation'):.2f}, means over ten layers"


def cumulative_against_feature(kind: str) -> str:
    """Best scores of a flow graph's features and of the feature alone."""
    best = result("flow_steering")[kind]["at_its_best"]
    return f"score {best['cumulative']['score']:.3f} against {best['seed feature']['score']:.3f} of the feature alone, each at its best strength"


def rl_reward() -> str:
    """Held-out rewards."""
    runs = result("rl_vectors")

    def with_interval(name: str) -> str:
        low, high = runs[name]["reward_interval"]
        return f"{runs[name]['reward']:.2f} ({low:.2f} to {high:.2f})"

    return f"sums of two numbers, held out: base {with_interval('base')}, all layers {with_interval('all layers')}, random reward {with_interval('random reward')}"


def rl_prefix() -> str:
    """What a prefixed token recovers."""
    (prefix,) = result("rl_readings")["prefixes"]["most_boosted_at_the_first_token"].values()
    return f"{prefix['share_of_last_layers_gain'] * 100:.0f} %, with the token most boosted at the first position"


def rl_paths() -> str:
    """What is kept of the effect by path."""
    rows = {row["mode"]: row for row in result("rl_readings")["paths"]["rows"]}
    return f"effect kept by `skip_attn` {rows['skip_attn']['effect_kept'] * 100:.1f} %, by `skip_mlp` {rows['skip_mlp']['effect_kept'] * 100:.1f} %, by `skip_layer` {rows['skip_layer']['effect_kept'] * 100:.1f} %"


def rl_first_token() -> str:
    """The first token's share of the effect."""
    share = result("rl_readings")["token_shift"]["last layer"]
    return f"the first of six tokens has {share['share_of_kl_on_first_token']['value'] * 100:.1f} % of KL, {share['share_if_even'] * 100:.1f} % if it were even"


def lime_perplexity() -> str:
    """Perplexity with and without LIMe."""
    runs = result("lime_language_model")
    ratio = runs["LIMe minus plain"]["perplexity_ratio"]
    return f"{runs['plain']['perplexity']:.2f} → {runs['LIMe']['perplexity']:.2f}, {percent(ratio - 1)}, three seeds, 2.1 M parameters, 1.4 M tokens"


def lime_average() -> str:
    """Perplexity with a uniform average."""
    ratio = result("lime_language_model")["average minus plain"]["perplexity_ratio"]
    return f"{percent(ratio - 1)} in perplexity"


def lime_arithmetic() -> str:
    """Right answers with six operands."""
    runs = result("lime_arithmetic")
    plain, lime, average = (
        100 * runs[name]["over_seeds"]["answer"]["6"]["mean"] for name in ("plain", "LIMe", "uniform average")
    )
    return f"{plain:.0f} → {lime:.0f} %, three seeds that differ more than the variants; a uniform average of layers has {average:.0f} %"


def lime_frozen() -> str:
    """Routers on a frozen model, and a control."""
    runs = result("lime_routers")["encyclopedia"]
    routers, norms = (runs[name]["change_of_loss"]["value"] for name in ("routers", "norms"))
    return f"{minus(routers)} nats a token, and as many gains of norms {minus(norms)}"
