"""Every call of the architectures, the operations and the analyses, and what is left out of them, with the reason."""

from .architectures_calls import ARCHITECTURES
from .collapse_calls import COLLAPSE
from .flow_calls import FLOW
from .ops_calls import OPS
from .stability_calls import STABILITY

CALLS = (*OPS, *ARCHITECTURES, *STABILITY, *FLOW, *COLLAPSE)
RUNS_A_MODEL = "it runs a language model; its own tests spoil its arguments"
LEFT_OUT = {
    **dict.fromkeys(
        (
            "collapse_report", "compare_new_latents", "deactivation_test", "evaluate_domains", "masking_curve",
            "measure_firing_rates", "pearson_matches", "predecessor_activity", "top_activations", "train_seeds",
            "transition_explained_variance",
        ),
        RUNS_A_MODEL,
    ),
    "has_bags": "it takes a torch.device and looks at its name",
    "save_sae": "it writes files; the tests of faults are about it",
    "load_sae": "it reads files; the tests of bad files spoil them",
    "squared_error": "it takes two tensors of the steps' own; tests/reliability/test_long_sums.py",
    "origin_agreement": "it reads a result that a language model was run for",
}  # fmt: skip
