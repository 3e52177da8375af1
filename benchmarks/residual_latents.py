"""What the latents of the benchmark's residual SAEs are: the ten that contribute most, beside the base's most similar.

Takes a minute, after residual.py: `python benchmarks/residual_latents.py` writes a page for each domain,
residual_latents_DOMAIN.html, and residual_latents.json.
"""

from pathlib import Path

import torch
from domain_saes import GENERAL, base_sae
from residual import DOMAINS, RESIDUAL_MIXED, kept
from result import write_result
from torch.nn.functional import normalize

from sae_lens_ext import ResidualStackSAE, compare_new_latents, embedded_texts, load_embedded_model


@torch.no_grad()
def main() -> None:
    """Search and write."""
    model = load_embedded_model("bridge")
    base = base_sae()
    summary = {}
    for domain, text in DOMAINS.items():
        residual, _ = kept(base, RESIDUAL_MIXED, domain, {})
        stack = ResidualStackSAE.from_saes(base, {domain: residual})
        texts = {
            domain: embedded_texts(text, split="test"),
            "general": embedded_texts(GENERAL, split="test"),
        }
        every = compare_new_latents(
            model, stack, texts, n_latents=residual.cfg.d_sae, n_contexts=1, max_tokens=65_536, autocast=True
        )
        ten = compare_new_latents(model, stack, texts, n_latents=10, max_tokens=65_536, autocast=True)
        page = Path(__file__).with_name(f"residual_latents_{domain}.html")
        ten.write_html(page, title=f"What a residual SAE learnt from {text}")
        frame = every.to_frame()
        alive = frame[frame["max_activation"] > 0]
        among = normalize(residual.W_dec, dim=-1) @ normalize(residual.W_dec, dim=-1).T
        among.fill_diagonal_(-1)
        summary[domain] = {
            "latents": len(frame),
            "fire on neither text": int((frame["max_activation"] == 0).sum()),
            "cosine with the base's most similar, median": float(alive["cosine"].median()),
            "share with a cosine above 0.7": float((alive["cosine"] > 0.7).mean()),
            "cosine with the most similar new latent, median": float(among.max(dim=-1).values.median()),
            "fire more often on general text": float(
                (alive["rate[general]"] > alive[f"rate[{domain}]"]).mean()
            ),
            "ten": ten.to_frame().to_dict(orient="records"),
        }
    write_result(__file__, summary)


if __name__ == "__main__":
    main()
