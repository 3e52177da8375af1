"""Where do features come from, and what do they become? Feature flow through three layers, and steering with it.

SAEs on the residual stream, the MLP's and the attention's output of three layers are trained on one forward pass of the language
model. Then, without data: every feature's origin, and the flow graph of some features, as an interactive page. Then with data: what
the features fire on, which of their predecessors are active with them, and what is left of a feature whose predecessor is taken
away. At last the model is steered with a flow graph.

On the command line: `sae-lens-ext flow FOLDER --start 7/res/12 --text embedded:encyclopedia --out DIR`.
Takes some minutes on two cores. SAE_LENS_EXT_SMALL=1 makes it a run of seconds whose numbers mean nothing.
"""

import os

from sae_lens import (
    BatchTopKTrainingSAEConfig,
    LoggingConfig,
    MultiSAETrainingRunner,
    MultiSAETrainingRunnerConfig,
)

from sae_lens_ext import (
    deactivation_test,
    dose_response,
    embedded_texts,
    feature_origins,
    flow_steering,
    load_embedded_model,
    load_sae,
    match_features,
    origin_agreement,
    predecessor_activity,
    share_of_words,
    top_activations,
    trace_features,
)

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
LAYERS = (6, 7, 8)
TRAINING_TOKENS = 4_096 if SMALL else 300_000
D_SAE, K = (64, 8) if SMALL else (1024, 32)
EVAL_TOKENS = 1_024 if SMALL else 65_536
THRESHOLDS = None if SMALL else "null"  # after a few steps no match is better than chance

model = load_embedded_model("bridge")
training, held_out = (embedded_texts("encyclopedia", split=split) for split in ("train", "test"))

# SAEs of nine sites, on one pass of the model. Activations differ in length from site to site, so they are scaled.
hooks = [
    f"blocks.{layer}.{site}" for layer in LAYERS for site in ("hook_out", "mlp.hook_out", "attn.hook_out")
]
cfg = MultiSAETrainingRunnerConfig(
    saes={
        hook: BatchTopKTrainingSAEConfig(
            d_in=576,
            d_sae=D_SAE,
            k=K,
            topk_threshold_lr=0.05,
            normalize_activations="expected_average_only_in",
        )
        for hook in hooks
    },
    hook_names={hook: hook for hook in hooks},
    model_name=model.cfg.model_name,
    model_class_name="TransformerBridge",
    dataset_path="embedded:encyclopedia",
    training_tokens=TRAINING_TOKENS,
    train_batch_size_tokens=1024,
    store_batch_size_prompts=8,
    n_batches_in_buffer=16 if SMALL else 64,
    n_batches_for_norm_estimate=2 if SMALL else 10,
    lr=4e-3,
    lr_warm_up_steps=10,
    lr_decay_steps=TRAINING_TOKENS // 1024 // 5,
    dead_feature_window=100,
    autocast_lm=True,
    exclude_special_tokens=[0],
    n_eval_batches=0,
    output_path="output/flow_saes",
    checkpoint_path=None,
    logger=LoggingConfig(log_to_wandb=False),
)
MultiSAETrainingRunner(cfg, override_model=model, override_dataset=training.to_dataset()).run()
saes = {hook: load_sae(f"output/flow_saes/{hook}") for hook in hooks}
residual = {layer: f"blocks.{layer}.hook_out" for layer in LAYERS}

# Without data: matches and origins.
match = match_features(saes[residual[7]], saes[residual[8]])
print(f"\n{match}")
origins = feature_origins(
    saes[residual[8]],
    residual=saes[residual[7]],
    mlp=saes["blocks.8.mlp.hook_out"],
    attention=saes["blocks.8.attn.hook_out"],
    thresholds=THRESHOLDS,
)
print(f"\n{origins}\n{origins.summary().round(3).to_string(index=False)}")

# What do features fire on? One pass for all layers.
tops = top_activations(model, saes, held_out, max_tokens=EVAL_TOKENS, autocast=True)
fires = sorted(range(D_SAE), key=lambda i: -tops.firing_rate(residual[7], i))[:64]
some = [(residual[7], index) for index in fires[:: 64 // 4]]
for hook, index in some:
    print(f"{hook}:{index} fires on", [token for token, _ in tops.tokens(hook, index, 6)])

# Their flow graph, as a page that needs no server and no network.
graph = trace_features(saes, some, thresholds=THRESHOLDS).with_activations(tops)
print(f"\n{graph}")
graph.save("output/flow.json")
graph.write_html("output/flow.html", title="Four features of layer 7")
graph.plot().write_html("output/flow_sankey.html")

# Does data agree? Which predecessors are active with a feature; and what is left of it when one is taken away.
activity = predecessor_activity(model, saes, held_out, n_samples=8 if SMALL else 250, autocast=True)
print(f"\n{activity}\n{origin_agreement(activity)}")
deactivation = deactivation_test(
    model,
    saes,
    held_out,
    layers=LAYERS[1:],
    n_texts=2 if SMALL else 35,
    max_features=5 if SMALL else 25,
    pearson_tokens=EVAL_TOKENS // 4,
    autocast=True,
)
print(f"\n{deactivation}")

# Steer with the flow graph of the first feature: its own layer's and all before. At which strength is the text still sound?
words = [token.strip() for token, _ in tops.tokens(*some[0], 10)]
curve = dose_response(
    model,
    lambda s: flow_steering(graph, s, starts=some[0], layers=7),
    [8.0] if SMALL else [4.0, 8.0, 16.0, 32.0],
    ["I would like to tell you about"]
    if SMALL
    else ["I would like to tell you about", "It is known that the"],
    behaviour=share_of_words([word for word in words if word.isalpha()] or ["the"]),
    max_new_tokens=4 if SMALL else 36,
    samples_per_prompt=1 if SMALL else 4,
)
print(f"\n{curve}")
curve.plot().write_html("output/dose_response.html")
