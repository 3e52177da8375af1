"""Layer-Integrated Memory: does a small model learn arithmetic better if its attention reads the keys and values of all layers so far?

Two models with the same weights at the start learn from the same expressions in the same order, worked out step by step modulo 11: one as it is, and one
with routers, which are 144 weights more. Then: accuracy by operand count, who reads whom, and how many directions each layer's
representations spread over.

Routers can be trained on a pretrained model, too, on the command line: `sae-lens-ext train-lime --text embedded:encyclopedia --out my_routers`, and
`sae-lens-ext collapse --text embedded:encyclopedia --out collapse.json --routers my_routers`.
Takes about ten minutes on two cores. SAE_LENS_EXT_SMALL=1 makes it a run of seconds whose numbers mean nothing.
"""

import os
from pathlib import Path

from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext import (
    arithmetic_accuracy,
    arithmetic_examples,
    attach_lime,
    collapse_report,
    plot_collapse,
    router_map,
    train_language_model,
)

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
OPERANDS, TRAINING, HELD_OUT, STEPS = ([3, 4], 64, 20, 10) if SMALL else ([3, 4], 20_000, 500, 3000)
OUT = Path("output/lime_small" if SMALL else "output/lime")  # run again, it goes on where it was

training = arithmetic_examples(OPERANDS, TRAINING)
held_out = arithmetic_examples(OPERANDS, HELD_OUT, seed=1, distinct_from=training)
print(training)


def small_model() -> TransformerBridge:
    """Build a model of the paper's size: 4 layers, 4 heads, d_model 32; the same weights each time."""
    settings = {"n_layers": 4, "n_heads": 4, "d_model": 32, "d_head": 8, "d_mlp": 128, "n_ctx": 64}
    positions = {"positional_embedding_type": "rotary", "rotary_dim": 8}
    kind = {"act_fn": "gelu", "normalization_type": "LN", "d_vocab": training.vocabulary.size, "seed": 0}
    return TransformerBridge.boot_native(settings | positions | kind)


models = {"without": small_model(), "with routers": small_model()}
# A pretrained model would begin with initial="identity", which changes nothing.
routers = attach_lime(models["with routers"], initial="random")
accuracy = {}
for name, model in models.items():
    trained = train_language_model(
        model,
        training.tokens,
        loss_mask=training.loss_masks,  # what is asked is not learnt, what is written after it is
        routers=routers if name == "with routers" else None,
        batch_size=64,
        lr=3e-3,
        epochs=100,
        max_steps=STEPS,
        router_lr=1e-2,
        folder=OUT / name.replace(" ", "_"),
    )
    print(f"\n{name}: {trained}")
    accuracy[name] = arithmetic_accuracy(model, held_out)
    print(accuracy[name])

print("\nMore answers right with routers, by operand count:")
for n in OPERANDS:
    print(f"  {n}: {accuracy['with routers'].minus(accuracy['without'], n)}")

# Who reads whom? Rows are layers, columns the layers whose keys and values they read.
read = router_map(routers)
print(f"\n{read}\n{read.by_layer.numpy().round(2)}")
read.plot().write_html(OUT / "routers.html")
routers.save(OUT / "routers.safetensors")  # LimeRouters.load, and attach_lime(model, routers)

# Over how many directions do representations spread? Values are measured before and after the routing.
texts = max(held_out.tokens, key=lambda group: group.numel())  # all of one length
reports = {
    name: collapse_report(model, texts, routers=routers if name == "with routers" else None, words=None)
    for name, model in models.items()
}
for name, report in reports.items():
    print(f"\n{name}: {report}")
plot_collapse(reports).write_html(OUT / "collapse.html")
