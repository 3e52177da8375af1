"""How long it takes to measure four SAEs on a text: `evaluate_domains` against SAELens' `run_evals`, in turns.

    python benchmarks/evaluate_domains.py       writes evaluate_domains.json; three minutes on two cores

Both in float32 on the same 1,024 tokens, and both give explained variance, cross-entropy and L0.
"""

from datasets import Dataset
from interleaved import interleaved
from offline_training import D_IN
from result import write_result
from sae_lens import ActivationsStore, JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_ext import embedded_texts, evaluate_domains, load_embedded_model
from sae_lens_ext.language_model import packed_contexts

N_SAES, D_SAE, TOKENS, CONTEXT, PROMPTS = 4, 4096, 1024, 128, 8
OURS, THEIRS = "evaluate_domains", "SAELens run_evals"


def main() -> None:
    """Measure and write."""
    model = load_embedded_model("bridge")
    documents = embedded_texts("encyclopedia", split="test")
    rows = packed_contexts(
        documents, model.tokenizer, context_size=CONTEXT, max_tokens=TOKENS, seed=0, what="The text"
    )
    dataset = Dataset.from_dict({"tokens": rows.tolist()})
    saes = {}
    for i in range(N_SAES):
        saes[str(i)] = JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=D_SAE))
        saes[str(i)].cfg.metadata.hook_name = "blocks.10.hook_out"
        saes[str(i)].cfg.metadata.context_size = CONTEXT
        saes[str(i)].cfg.metadata.prepend_bos = True
    cfg = EvalConfig(
        batch_size_prompts=PROMPTS,
        n_eval_reconstruction_batches=TOKENS // CONTEXT // PROMPTS,
        n_eval_sparsity_variance_batches=TOKENS // CONTEXT // PROMPTS,
        compute_ce_loss=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
    )

    def theirs() -> None:
        for sae in saes.values():
            store = ActivationsStore.from_sae(
                model, sae, dataset, store_batch_size_prompts=PROMPTS, total_tokens=1
            )
            run_evals(sae, store, model, ActivationScaler(), cfg, exclude_special_tokens=True)

    def ours() -> None:
        evaluate_domains(
            model, saes, {"text": documents}, context_size=CONTEXT, max_tokens=TOKENS, show_progress=False
        )

    times = interleaved({THEIRS: theirs, OURS: ours}, rounds=3, warm_up=1, against=THEIRS)
    write_result(__file__, {"n_saes": N_SAES, "d_sae": D_SAE, "tokens": TOKENS, "times": times})
    print(times)


if __name__ == "__main__":
    main()
