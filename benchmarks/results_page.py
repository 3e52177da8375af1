"""Write docs/results.md: each paper's claim beside what was measured here, from the JSONs of this folder.

    python benchmarks/results_page.py

Nothing is measured here. Each row names the JSON that its number is read from, with the script that wrote it, the day and the machine.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import results_readings as read

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER.parent / "docs" / "results.md"
HEAD = """\
# Results: the papers' claims, and what was measured here

Each row has a claim as the paper has it, or as people who read it wrote it down, and the number that this package reached. Everything
was measured on the embedded model (SmolLM2-135M-Instruct) or on small models trained from scratch, on two CPU cores, with hundreds of thousands of tokens where
the papers have billions: a claim that holds here holds under poor conditions, and one that does not may hold under the paper's. **yes**: the claim's
direction and about its size; **in part**: its direction; **no**: neither. The pages say how each was measured, with intervals and controls.

This page is written by [benchmarks/results_page.py](../benchmarks/results_page.py) from the JSONs beside the scripts.
"""


@dataclass(frozen=True)
class Row:
    """A claim and what was measured.

    Attributes:
        claim: The paper's claim.
        holds: "yes", "in part", "no", or a few words.
        measured: Gives the sentence with the numbers.
        script: The benchmark, without its suffix.
    """

    claim: str
    holds: str
    measured: Callable[[], str]
    script: str


@dataclass(frozen=True)
class Paper:
    """A paper, the page of its method, and its claims."""

    title: str
    arxiv: str
    page: str
    rows: tuple[Row, ...]


PAPERS = (
    Paper(
        "Train One Sparse Autoencoder Across Multiple Sparsity Budgets",
        "2505.24473",
        "hierarchical_topk.md",
        (
            Row(
                "One SAE matches or beats TopK SAEs trained for each single k",
                "in part",
                read.against_each_topk,
                "quickstart",
            ),
            Row("A TopK does not hold below its own k", "yes", read.below_its_own_k, "kron_budgets"),
            Row("Few dead features", "yes", read.dead_latents_of_hierarchical_topk, "quickstart"),
            Row(
                "All 64 budgets cost 1.26 times TopK's step (decoder, Triton, GPU)",
                "no GPU figure; CPU",
                lambda: read.step_against_saelens("hierarchical_topk, all budgets"),
                "train_step",
            ),
        ),
    ),
    Paper(
        "Train Sparse Autoencoders Efficiently by Utilizing Features Correlation (KronSAE)",
        "2505.22255",
        "kron.md",
        (
            Row(
                "On par with TopK at equal training FLOPs; on small Pythias TopK leads by .001 to .016",
                "in part",
                read.kron_against_topk,
                "quickstart",
            ),
            Row(
                "Cheaper: the encoder has 1/m + 1/n of TopK's parameters",
                "yes",
                lambda: read.step_against_saelens("kron, m = n = 4"),
                "train_step",
            ),
            Row("(no claim) Dead latents", "a drawback", read.dead_latents_of_kron, "quickstart"),
        ),
    ),
    Paper(
        "Teach Old SAEs New Domain Tricks with Boosting (residual SAEs)",
        "2507.12990",
        "residual.md",
        (
            Row("Domain EV +25 to +59 %", "in part", read.domain_gain, "residual"),
            Row(
                "Cross-entropy added in the domain (Russian) down by over 50 %",
                "yes",
                read.domain_cross_entropy,
                "residual",
            ),
            Row("General EV changes by under 1 %", "in part", read.general_harm_of_residuals, "residual"),
            Row(
                "Full fine-tuning loses 28 to 36 % of general EV",
                "in part",
                lambda: read.general_harm("fine-tuned"),
                "residual",
            ),
            Row(
                "Several residual SAEs together do not collapse", "yes", read.two_domains_together, "residual"
            ),
        ),
    ),
    Paper(
        "Unstable Features, Reproducible Subspaces",
        "2606.12138",
        "feature_stability.md",
        (
            Row(
                "Part of the features is stable over seeds (64 % in a reimplementation, 1,000 M tokens)",
                "in part",
                read.stable_shares,
                "stability",
            ),
            Row(
                "N stable features cost more than 4N unstable ones",
                "no",
                read.masked_latents,
                "stability_masking",
            ),
            Row("PW-MCC of TopK about 0.80 (2505.20254)", "in part", read.pw_mcc, "stability"),
            Row(
                "Effective rank of the unstable 0.59 to 0.65 of d, of the stable 0.80",
                "no",
                read.effective_ranks,
                "stability_geometry",
            ),
            Row(
                "A probe finds unstable features of other seeds at F1 0.67 to 0.73",
                "no",
                read.probe_f1,
                "stability_geometry",
            ),
            Row(
                "Synthetic: of crowded features the subspace is found, not the features",
                "yes",
                read.synthetic_recovery,
                "stability_synthetic",
            ),
            Row(
                "Pooled features are more stable at preserved EV",
                "in part",
                read.pooled_against_single,
                "stability_pooling",
            ),
        ),
    ),
    Paper(
        "Analyze Feature Flow to Enhance Interpretation and Steering",
        "2502.03032",
        "feature_flow.md",
        (
            Row(
                "Taking away the predecessor: activation change and success, cosine 0.75 / 65 %, Pearson 0.74 / 65 %, exhaustive 0.83 / 73 %, random of five worst",
                "in part",
                read.deactivation_by_method,
                "flow_deactivation",
            ),
            Row(
                "The match as a map explains 0.79 (cosine), 0.78 (permutation)",
                "no",
                read.transition_ev,
                "flow_transition",
            ),
            Row(
                "Cumulative steering beats the feature alone, to activate",
                "no",
                lambda: read.cumulative_against_feature("activate"),
                "flow_steering",
            ),
            Row(
                "… and to suppress",
                "no",
                lambda: read.cumulative_against_feature("suppress"),
                "flow_steering",
            ),
        ),
    ),
    Paper(
        "Small Vectors, Big Effects (RL steering vectors)",
        "2509.06608",
        "steering_vectors.md",
        (
            Row(
                "Vectors trained with a reward solve far more (MATH500: 52 → 80)",
                "yes",
                read.rl_reward,
                "rl_vectors",
            ),
            Row(
                "Prefixing one token recovers about 75 % of the last layer's gain",
                "yes",
                read.rl_prefix,
                "rl_readings",
            ),
            Row("The last layer's vector acts at the first token", "no", read.rl_first_token, "rl_readings"),
            Row(
                "The penultimate vector works through the MLP and leaves attention alone",
                "yes",
                read.rl_paths,
                "rl_readings",
            ),
        ),
    ),
    Paper(
        "You Do Not Fully Utilize Transformer's Representation Capacity (LIMe)",
        "2502.09245",
        "lime.md",
        (
            Row(
                "Perplexity of a 150M model 16.46 → 15.93, −3.2 %",
                "yes",
                read.lime_perplexity,
                "lime_language_model",
            ),
            Row("A uniform average gives nothing", "yes", read.lime_average, "lime_language_model"),
            Row("Arithmetic with six operands 41 → 72 %", "in part", read.lime_arithmetic, "lime_arithmetic"),
            Row(
                "(ours) Routers on a frozen pretrained model",
                "no better than a control",
                read.lime_frozen,
                "lime_routers",
            ),
        ),
    ),
)


def page() -> str:
    """Give the text of docs/results.md."""
    parts = [HEAD]
    for paper in PAPERS:
        parts.append(
            f"\n## {paper.title}\n\n[arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv}), [the method's page]({paper.page}).\n\n"
            "| claim | holds here | measured | by |\n|:--|:--|:--|:--|\n"
        )
        parts += [
            f"| {row.claim} | **{row.holds}** | {row.measured()} | [{row.script}.py](../benchmarks/{row.script}.py) |\n"
            for row in paper.rows
        ]
    parts.append(
        "\n## The commands, when and where\n\n| command | date | machine | versions |\n|:--|:--|:--|:--|\n"
    )
    for script in sorted({row.script for paper in PAPERS for row in paper.rows}):
        machine = read.result(script)["machine"]
        parts.append(
            f"| `python benchmarks/{script}.py` → [{script}.json](../benchmarks/{script}.json) | {machine['date']} | "
            f"{machine['processor']}, {machine['cores']} cores, no GPU | torch {machine['torch']}, sae-lens {machine['sae-lens']}, "
            f"transformer-lens {machine['transformer-lens']} |\n"
        )
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
