"""The calls of interventions, steering vectors and their readings."""

from typing import Any

import sae_lens_ext as s
import sae_lens_ext.steering
from tests.reliability.calls import wrong_values as w
from tests.reliability.calls.material import FIRST, PROMPTS, drawn, model, new_sae, tokens
from tests.reliability.calls.model_calls import ModelCall
from tests.reliability.calls.steering_material import (
    BOOTSTRAP,
    FEATURE,
    PLACE,
    WRITING,
    added,
    call,
    of_numbers,
    patched,
    reward,
    sequences,
    steered,
    vectors,
)


def calls() -> list[ModelCall]:
    """Give every call."""
    quiet: dict[str, Any] = {"show_progress": False}
    return [
        call(
            "steer",
            steered,
            lambda: {"model": model(), "intervention": added(), "attention_mask": None},
            {"model": w.NOTHING, "intervention": w.NOTHING, "attention_mask": w.NONE},
        ),
        call(
            "AddVector",
            s.AddVector,
            lambda: {"hook_name": FIRST, "vector": drawn(16)},
            {"hook_name": w.NAME, "vector": w.NOTHING, "strength": w.REAL, "relative": w.FLAG} | PLACE,
        ),
        call(
            "AddFeature",
            s.AddFeature,
            lambda: {"sae": new_sae(), "index": 3, "strength": 1.0},
            FEATURE | {"strength": w.REAL, "relative": w.FLAG},
        ),
        call(
            "ScaleFeature",
            s.ScaleFeature,
            lambda: {"sae": new_sae(), "index": 3, "factor": 1.0},
            FEATURE | {"factor": w.REAL},
        ),
        call(
            "ClampFeature",
            s.ClampFeature,
            lambda: {"sae": new_sae(), "index": 3, "value": 1.0},
            FEATURE | {"value": w.REAL, "weight": w.REAL},
        ),
        call("AblateFeature", s.AblateFeature, lambda: {"sae": new_sae(), "index": 3}, FEATURE),
        call("InterventionSum", s.InterventionSum, dict, {"interventions": w.NOTHING}),
        of_numbers("Intervention.__mul__", lambda factor: added() * factor, {"factor": w.REAL}),
        of_numbers(
            "Intervention.__truediv__", lambda divisor: added() / divisor, {"divisor": w.REAL - w.kind("0")}
        ),
        of_numbers("Intervention.hooks", lambda model: added().hooks(model), {"model": w.NONE}),
        call(
            "SteeringVectors",
            s.SteeringVectors,
            lambda: {"vectors": {0: drawn(16)}},
            {"vectors": w.NOTHING, "provenance": w.kind("{}")},
        ),
        of_numbers("SteeringVectors.__getitem__", lambda layer: vectors()[layer], {"layer": w.kind("0")}),
        of_numbers(
            "SteeringVectors.__mul__", lambda factor: vectors() * factor, {"factor": w.REAL - w.kind("1e300")}
        ),
        call(
            "SteeringVectors.interventions",
            lambda **given: vectors().interventions(**given),
            dict,
            {"model": w.NONE, "strength": w.REAL} | PLACE,
        ),
        call(
            "SteeringVectors.zeros",
            s.SteeringVectors.zeros,
            lambda: {"model": model()},
            {"model": w.NOTHING, "layers": w.NONE | w.kind("[1]")},
        ),
        call(
            "SteeringVectors.from_model",
            s.SteeringVectors.from_model,
            lambda: {"model": model()},
            {"model": w.NOTHING, "base": w.NOTHING},
        ),
        of_numbers("SteeringVectors.to_bias_state_dict", vectors().to_bias_state_dict, {"prefix": w.NAME}),
        call(
            "Sequences",
            s.Sequences,
            lambda: {"tokens": (tokens()[0],), "prompt_lengths": (3,)},
            {"tokens": w.NOTHING, "prompt_lengths": w.kind("[1]")},
        ),
        call(
            "Sequences.joined",
            s.Sequences.joined,
            lambda: {"prompts": [[1, 2]], "completions": [[3]]},
            {"prompts": w.NOTHING, "completions": w.kind("[[]]")},
        ),
        call(
            "EarlyStop",
            s.EarlyStop,
            lambda: {"reward": 0.5, "patience": 3},
            {"reward": w.REAL | w.NONE, "patience": w.COUNT | w.NONE, "window": w.COUNT},
        ),
        call(
            "learning_rates_by_depth",
            s.learning_rates_by_depth,
            lambda: {"n_layers": 4},
            {"n_layers": w.COUNT, "first": w.POSITIVE, "last": w.POSITIVE},
        ),
        call(
            "LengthWithin",
            s.LengthWithin,
            lambda: {"minimum": 1, "maximum": 3},
            {"minimum": w.SEED, "maximum": w.COUNT | w.NONE, "unit": w.NOTHING},
        ),
        call(
            "MatchesPattern",
            s.MatchesPattern,
            lambda: {"pattern": "a+"},
            {"pattern": w.NAME, "full": w.FLAG, "flags": w.kind("0", "2", "numpy 2", "tensor 2")},
        ),
        call("BoxedEquals", s.BoxedEquals, lambda: {"answers": {"w1": "3"}}, {"answers": w.FUNCTION}),
        call(
            "LastNumberEquals",
            s.LastNumberEquals,
            lambda: {"answers": {"w1": 3}},
            {"answers": w.FUNCTION, "stop": w.NAME | w.NONE},
        ),
        call("share_of_words", s.share_of_words, dict, {"words": w.kind("['w1']")}),
        call("presence_of_words", s.steering.presence_of_words, dict, {"words": w.kind("['w1']")}),
        call(
            "logit_lens",
            s.logit_lens,
            lambda: {"model": model(), "vectors": drawn(16)},
            {
                "model": w.NOTHING,
                "vectors": w.NOTHING,
                "measure": w.NOTHING,
                "top_k": w.COUNT,
                "final_norm": w.FLAG,
                "seed": w.SEED,
            },
        ),
        call(
            "propagated_effect",
            s.propagated_effect,
            lambda: {"model": model(), "vectors": vectors(), "sequences": tokens()} | quiet,
            {
                "model": w.NOTHING,
                "vectors": w.NOTHING,
                "sequences": w.SEQUENCES,
                "tokens": w.NOTHING,
                "batch_size": w.COUNT,
            },
        ),
        call(
            "persistence",
            s.persistence,
            lambda: {"model": model(), "vectors": vectors(), "sequences": tokens(), "n_resamples": 5} | quiet,
            {
                "model": w.NOTHING,
                "vectors": w.NOTHING,
                "sequences": w.SEQUENCES,
                "tokens": w.NOTHING,
                "batch_size": w.COUNT,
            }
            | BOOTSTRAP,
        ),
        call(
            "token_shift",
            s.token_shift,
            lambda: (
                {"model": model(), "vectors": vectors(), "sequences": sequences(), "n_resamples": 5} | quiet
            ),
            {
                "model": w.NOTHING,
                "vectors": w.NOTHING,
                "sequences": w.SEQUENCES,
                "top_k": w.COUNT,
                "batch_size": w.COUNT,
            }
            | BOOTSTRAP,
        ),
        call(
            "path_patching",
            s.path_patching,
            lambda: (
                {
                    "model": model(),
                    "vector": drawn(16),
                    "sequences": sequences(),
                    "modes": ("full", "base"),
                    "n_resamples": 5,
                }
                | quiet
            ),
            {
                "model": w.NOTHING,
                "vector": w.NOTHING,
                "sequences": w.SEQUENCES,
                "modes": w.NOTHING,
                "reference": w.NOTHING,
                "layer": w.kind("0", "None"),
                "heads": w.NONE,
                "batch_size": w.COUNT,
            }
            | BOOTSTRAP,
        ),
        call(
            "path_patching (reward)",
            s.path_patching,
            lambda: (
                {
                    "model": model(),
                    "vector": drawn(16),
                    "prompts": PROMPTS,
                    "reward": reward,
                    "modes": ("base",),
                    "samples_per_prompt": 2,
                    "max_new_tokens": 2,
                }
                | quiet
            ),
            {"prompts": w.TEXTS, "reward": w.FUNCTION, "samples_per_prompt": w.COUNT} | WRITING,
        ),
        call(
            "patched_paths",
            patched,
            lambda: {"model": model(), "vector": drawn(16), "mode": "full", "layer": None},
            {"model": w.NOTHING, "vector": w.NOTHING, "mode": w.NOTHING, "layer": w.kind("0", "None")},
        ),
        call(
            "PathMode",
            s.PathMode,
            lambda: {"kind": "only", "part": "q", "head": 0},
            {"kind": w.NOTHING, "part": w.NOTHING, "head": w.SEED},
        ),
        call("PathMode.parse", s.PathMode.parse, dict, {"value": w.NOTHING}),
        call(
            "measure_reward",
            s.measure_reward,
            lambda: (
                {
                    "model": model(),
                    "prompts": PROMPTS,
                    "reward": reward,
                    "samples_per_prompt": 2,
                    "max_new_tokens": 2,
                }
                | quiet
            ),
            {
                "model": w.NOTHING,
                "prompts": w.TEXTS,
                "reward": w.FUNCTION,
                "samples_per_prompt": w.COUNT,
                "intervention": w.NONE,
                "prefix": w.NAME | w.kind("0", "2", "None", "[]", "[1]"),
                "batch_size": w.COUNT,
            }
            | WRITING,
        ),
        call(
            "train_steering_vectors",
            s.train_steering_vectors,
            lambda: (
                {
                    "model": model(),
                    "prompts": PROMPTS,
                    "reward": reward,
                    "group_size": 2,
                    "prompts_per_step": 1,
                    "max_new_tokens": 2,
                    "steps": 1,
                    "lr": 0.1,
                }
                | quiet
            ),
            {
                "model": w.NOTHING,
                "prompts": w.TEXTS,
                "reward": w.FUNCTION,
                "layers": w.NONE | w.kind("[1]"),
                "group_size": w.COUNT,
                "prompts_per_step": w.COUNT,
                "steps": w.COUNT,
                "lr": w.POSITIVE - w.kind("1e300"),
                "control": w.NONE,
                "weight_decay": w.NOT_NEGATIVE - w.kind("1e300"),
                "warmup": w.kind("0", "0.5", "numpy 0.5"),
                "clip": w.POSITIVE,
                "micro_batch_size": w.COUNT,
                "kl_every": w.SEED,
                "early_stop": w.NONE,
                "start": w.NONE,
                "folder": w.NAME | w.NONE,
            }
            | WRITING,
        ),
        call(
            "dose_response",
            s.dose_response,
            lambda: (
                {
                    "model": model(),
                    "intervention_of": added(),
                    "strengths": [0, 1],
                    "prompts": PROMPTS,
                    "behaviour": s.share_of_words(["w1"]),
                    "max_new_tokens": 2,
                    "n_resamples": 5,
                }
                | quiet
            ),
            {
                "model": w.NOTHING,
                "intervention_of": w.NOTHING,
                "strengths": w.kind("[1]", "[-1]"),
                "prompts": w.SEQUENCES,
                "behaviour": w.FUNCTION,
                "mode": w.NOTHING,
                "theme_texts": w.SEQUENCES | w.NONE,
                "max_new_tokens": w.COUNT,
                "temperature": w.NOT_NEGATIVE,
                "top_p": w.kind("0.5", "numpy 0.5"),
                "samples_per_prompt": w.COUNT,
                "batch_size": w.COUNT,
            }
            | BOOTSTRAP,
        ),
        of_numbers(
            "pair_gain",
            s.pair_gain,
            {"reward_i": w.REAL, "reward_j": w.REAL, "reward_pair": w.REAL, "reward_all": w.REAL} | BOOTSTRAP,
            reward_i=0.5,
            reward_j=0.6,
            reward_pair=0.8,
            reward_all=0.9,
        ),
        of_numbers(
            "pair_gains",
            s.pair_gains,
            {"singles": w.NOTHING, "pairs": w.NOTHING, "all_layers": w.REAL} | BOOTSTRAP,
            singles={0: 0.5, 1: 0.6},
            pairs={(0, 1): 0.8},
            all_layers=0.9,
        ),
        of_numbers(
            "transfer",
            s.transfer,
            {"base": w.REAL, "own": w.REAL, "transferred": w.REAL} | BOOTSTRAP,
            base=0.5,
            own=0.8,
            transferred=0.7,
        ),
        call(
            "plot_training_logs",
            s.plot_training_logs,
            lambda: {"logs": {}},
            {"logs": w.NOTHING, "window": w.NOTHING},
        ),
        call("plot_dose_responses", s.plot_dose_responses, dict, {"responses": w.NOTHING}),
    ]
