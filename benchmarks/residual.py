"""Residual SAEs against the baselines of their paper: what each gives in its domain and costs elsewhere.

One base SAE of general text (the embedded encyclopedia), two domains that it is blind to (Python source, French), equal
tokens for every method, general text included where it is mixed in, and as many latents a token on average as base and
residual spend together in that domain. The baselines' learning rates are the best of three in short runs on Python, judged on
a slice of the training tokens that these runs do not see; residuals are trained at the default of `sae-lens-ext augment`
(6e-3 did better in the short run, and fell apart in a longer one). Then EV, cross-entropy and L0 on held-out documents of all three texts, and two domains together.

    python benchmarks/residual.py           writes residual.json and residual.svg; an hour on two cores

Interrupted, it goes on where it was (benchmarks/.cache).
"""

import json

import plotly.graph_objects as go
import torch
from domain_saes import (
    BATCH,
    CACHE,
    D_NEW,
    GENERAL,
    K_NEW,
    base_sae,
    cached_activations,
    explained_variance,
    fit,
    keep,
    mixture,
    residual_sae,
)
from plotly.colors import qualitative
from plotly.subplots import make_subplots
from residual_baselines import extended, fine_tuned, stitched
from result import write_figure, write_result
from sae_lens import SAE, TrainingSAE
from sae_lens.util import temporary_seed

from sae_lens_ext import (
    DomainReport,
    ResidualStackSAE,
    embedded_texts,
    evaluate_domains,
    load_embedded_model,
    load_sae,
    weights_fingerprint,
)
from sae_lens_ext.architectures.inference import as_inference

DOMAINS = {"python": "python_source", "french": "encyclopedia_fr"}
TOKENS = 400_000
GENERAL_FRACTION = 0.1
EVAL_TOKENS = 8_192
REPORT = CACHE / "residual_report.json"
RESIDUAL, RESIDUAL_MIXED = "residual, domain only (paper)", "residual, 10 % general text (our default)"
EXTENDED_RANDOM, EXTENDED_ACTIVE = "extended, random init", "extended, most-active init"
TUNED, TUNED_MIXED, STITCHED = "fine-tuned", "fine-tuned, 10 % general text", "stitched"
METHODS = (
    RESIDUAL,
    RESIDUAL_MIXED,
    EXTENDED_RANDOM,
    EXTENDED_ACTIVE,
    TUNED,
    TUNED_MIXED,
    STITCHED,
)
LEARNING_RATES = (7e-4, 2e-3, 6e-3)
LEARNING_RATE_TOKENS = 100_000
JUDGED = 16_384  # tokens that learning rates are judged on
SAME_LEARNING_RATE = {TUNED_MIXED: TUNED}
RESIDUAL_LEARNING_RATE = 2e-3


def untrained(base: SAE, method: str, domain: torch.Tensor) -> TrainingSAE:
    """Give what a method trains, as it starts, for the activations of a domain [N, d_in]."""
    _, spent_by_base = explained_variance(base, domain[:JUDGED])
    if method in (RESIDUAL, RESIDUAL_MIXED):
        return residual_sae(base)
    if method in (EXTENDED_RANDOM, EXTENDED_ACTIVE):
        init = "random" if method == EXTENDED_RANDOM else "active"
        return extended(base, domain, init, k=spent_by_base + K_NEW)
    return fine_tuned(base, k=spent_by_base + K_NEW)


def trained(
    base: SAE, method: str, domain: str, x: torch.Tensor, *, tokens: int, lr: float
) -> tuple[SAE, float]:
    """Train a method on activations x [N, d_in] of a domain; gives it for inference, and the seconds."""
    general, _ = cached_activations(GENERAL)
    fraction = GENERAL_FRACTION if method in (RESIDUAL_MIXED, TUNED_MIXED) else 0.0
    # With the seed of the base a residual would start from the base's own first rows, and so would every domain's.
    seed = 1 + list(DOMAINS).index(domain) if method in (RESIDUAL, RESIDUAL_MIXED) else 0
    with temporary_seed(seed):
        sae = untrained(base, method, x)
        seconds = fit(sae, mixture(x, general, fraction), tokens, lr=lr)
    return as_inference(sae), seconds


def learning_rates(base: SAE) -> dict[str, dict[str, float]]:
    """Give each method's EV on Python at every learning rate, after few tokens, on a slice it was not trained on."""
    path = CACHE / "learning_rates.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    x, _ = cached_activations(DOMAINS["python"])
    for method in (RESIDUAL, EXTENDED_RANDOM, EXTENDED_ACTIVE, TUNED):
        for lr in LEARNING_RATES:
            if str(lr) not in found.setdefault(method, {}):
                sae, _ = trained(base, method, "python", x[JUDGED:], tokens=LEARNING_RATE_TOKENS, lr=lr)
                if method == RESIDUAL:
                    sae = ResidualStackSAE.from_saes(base, {"python": sae})
                found[method][str(lr)], _ = explained_variance(sae, x[:JUDGED])
                print(method, lr, found[method][str(lr)], flush=True)
                path.write_text(json.dumps(found))
    return found


def kept(base: SAE, method: str, domain: str, rates: dict[str, dict[str, float]]) -> tuple[SAE, float]:
    """Load what an earlier run trained, or train and save it; gives it for inference, and the seconds."""
    path = CACHE / "saes" / f"{domain}, {method}"
    if not path.is_dir():
        path.parent.mkdir(exist_ok=True)
        if method == STITCHED:
            tuned, seconds = kept(base, TUNED, domain, rates)
            sae = stitched(base, tuned)
        else:
            best = RESIDUAL_LEARNING_RATE
            if method not in (RESIDUAL, RESIDUAL_MIXED):
                by_rate = rates[SAME_LEARNING_RATE.get(method, method)]
                best = float(max(by_rate, key=lambda lr: by_rate[lr]))
            x, _ = cached_activations(DOMAINS[domain])
            sae, seconds = trained(base, method, domain, x, tokens=TOKENS, lr=best)
        sae.cfg.metadata.training_seconds = round(seconds, 1)
        keep(sae, path)
        print(f"{path.name}: {seconds:.0f} s", flush=True)
    sae = load_sae(path)
    return sae, sae.cfg.metadata.training_seconds


def everything(base: SAE, rates: dict[str, dict[str, float]]) -> tuple[dict[str, SAE], dict[str, float]]:
    """Train all methods on all domains; gives the SAEs to measure by name, and the seconds of each."""
    saes: dict[str, SAE] = {"base": base}
    seconds: dict[str, float] = {}
    residuals: dict[str, dict[str, SAE]] = {RESIDUAL: {}, RESIDUAL_MIXED: {}}
    for domain in DOMAINS:
        for method in METHODS:
            name = f"{domain}: {method}"
            sae, seconds[name] = kept(base, method, domain, rates)
            if method in residuals:
                residuals[method][domain] = sae
                sae = ResidualStackSAE.from_saes(base, {domain: sae})
            saes[name] = sae
    for method, found in residuals.items():
        saes[f"both: {method}"] = ResidualStackSAE.from_saes(base, found)
    return saes, seconds


def measured(saes: dict[str, SAE]) -> DomainReport:
    """Measure the SAEs that no earlier run has measured."""
    found = DomainReport.load(REPORT) if REPORT.is_file() else DomainReport(())
    missing = {name: sae for name, sae in saes.items() if name not in found.saes}
    if missing:
        texts = {domain: embedded_texts(text, split="test") for domain, text in DOMAINS.items()}
        new = evaluate_domains(
            load_embedded_model("bridge"),
            missing,
            {**texts, "general": embedded_texts(GENERAL, split="test")},
            max_tokens=EVAL_TOKENS,
            autocast=True,
        )
        DomainReport(found.measurements + new.measurements, new.provenance).save(REPORT)
    return DomainReport.load(REPORT)


def exactness(base: SAE, stack: ResidualStackSAE, before: str) -> dict[str, bool | float]:
    """Check that the base is what it was, that nothing active is the base, and how exact the native form is."""
    _, x = cached_activations(DOMAINS["python"])
    nothing, native = stack.with_active(()), stack.to_native()
    with torch.no_grad():
        return {
            "base's weights are as before training": weights_fingerprint(base) == before
            and all(
                torch.equal(mine, saved)
                for mine, saved in zip(
                    base.state_dict().values(), load_sae(CACHE / "base").state_dict().values(), strict=True
                )
            ),
            "nothing active equals the base bit for bit": torch.equal(nothing(x), base(x)),
            "largest difference of the native form": (native(x) - stack(x)).abs().max().item(),
            "largest activation": x.abs().max().item(),
        }


def main() -> None:
    """Train, measure, draw, write."""
    base = base_sae()
    before = weights_fingerprint(base)
    rates = learning_rates(base)
    saes, seconds = everything(base, rates)
    report = measured(saes)
    stack = saes[f"both: {RESIDUAL_MIXED}"]
    write_result(
        __file__,
        {
            "tokens": TOKENS,
            "batch": BATCH,
            "explained_variance_by_learning_rate": rates,
            "new_latents": D_NEW,
            "new_latents_per_token": K_NEW,
            "general_fraction": GENERAL_FRACTION,
            "exactness": exactness(base, stack, before),
            "training_seconds": seconds,
            "changes": json.loads(report.changes("base").to_json(orient="records")),
            **json.loads(REPORT.read_text()),
        },
    )
    write_figure(__file__, figure(report), height=640)
    print(report.changes("base").to_string(float_format=lambda x: f"{x:+.1%}"))


def figure(report: DomainReport) -> go.Figure:
    """Draw each method's gain in its domain against its cost in general text, for EV and for cross-entropy."""
    drawing = make_subplots(rows=1, cols=2, subplot_titles=list(DOMAINS), horizontal_spacing=0.12)
    changes = report.changes("base").set_index(["sae", "domain"])["ev_change"]
    symbols = ("star", "star", "circle", "circle-open", "square", "square-open", "x")
    for column, domain in enumerate(DOMAINS, start=1):
        for i, method in enumerate(METHODS):
            name = f"{domain}: {method}"
            drawing.add_scatter(
                x=[100 * changes[name, "general"]],
                y=[100 * changes[name, domain]],
                mode="markers",
                name=method,
                marker={"size": 13, "symbol": symbols[i], "color": qualitative.Safe[i]},
                legendgroup=method,
                showlegend=column == 1,
                row=1,
                col=column,
            )
        drawing.add_vline(x=0, line={"color": "#999", "width": 1}, row=1, col=column)
    drawing.update_xaxes(title="general text: change of EV, %")
    drawing.update_yaxes(title="domain: change of EV, %")
    drawing.update_layout(
        title=f"Gain in the domain against harm to general text, {TOKENS:,} tokens",
        legend={"orientation": "h", "y": -0.2},
    )
    return drawing


if __name__ == "__main__":
    main()
