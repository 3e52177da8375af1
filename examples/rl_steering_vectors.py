"""Train steering vectors with a reward, read them, and find where they act.

The task: small sums, the answer right after "The answer is", in six tokens. The model gives the right number in a fifth of its samples; a few steps of
RLOO raise that. Then the readings: the tokens the vectors name (logit lens), where in a completion they act (token shift), how far their effect carries
(persistence), and by which path the last one but one acts (path patching).

On the command line: `sae-lens-ext train-vectors TASK.jsonl --reward last_number --out FOLDER` and `sae-lens-ext lens FOLDER/vectors.safetensors`.
Takes five minutes on two cores. SAE_LENS_EXT_SMALL=1 makes it a run of seconds whose numbers mean nothing.
"""

import os

from sae_lens_ext import (
    LastNumberEquals,
    load_embedded_model,
    logit_lens,
    measure_reward,
    path_patching,
    persistence,
    propagated_effect,
    steer,
    token_shift,
    train_steering_vectors,
)

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
SAMPLING = {"max_new_tokens": 3 if SMALL else 6, "prepend_bos": False}  # the chat template has no BOS
STEPS, GROUP, SAMPLES = (1, 2, 1) if SMALL else (12, 16, 8)

model = load_embedded_model("bridge")


def question(a: int, b: int) -> str:
    """Give a prompt in the model's chat template."""
    return f"<|im_start|>user\nWhat is {a} + {b}?<|im_end|>\n<|im_start|>assistant\nThe answer is"


sums = {question(a, b): a + b for a in range(2, 20) for b in range(2, 10)}
reward = LastNumberEquals(sums)
if SMALL:  # two samples are hardly ever right: any reward that tells them apart will do

    def reward(prompt: str, completion: str) -> float:  # noqa: ARG001
        """Give the length."""
        return float(len(completion))


held_out = list(sums)[:: 36 if SMALL else 6]
train = [prompt for prompt in sums if prompt not in held_out]

before = measure_reward(model, held_out, reward, samples_per_prompt=SAMPLES, **SAMPLING)
print("before:", before.estimate, before.completions[0][:3])
vectors = train_steering_vectors(
    model,
    train,
    reward,
    group_size=GROUP,
    prompts_per_step=2 if SMALL else 8,
    steps=STEPS,
    lr=1e-2,
    folder="output/rl_steering_vectors_small"
    if SMALL
    else "output/rl_steering_vectors",  # state, log and vectors; run again, it goes on
    **SAMPLING,
)
after = measure_reward(
    model, held_out, reward, samples_per_prompt=SAMPLES, intervention=vectors.interventions(model), **SAMPLING
)
print("after: ", after.estimate, after.completions[0][:3])
print("gain:  ", after.gain_over(before))

# Steering with what was trained, as with any other intervention.
with steer(model, vectors.interventions(model)):
    print(
        model.generate(
            question(3, 4), max_new_tokens=SAMPLING["max_new_tokens"], do_sample=False, verbose=False
        )
    )

# Which tokens do they name? The vectors themselves, and what has become of them after the last block.
print(logit_lens(model, vectors.only(29), top_k=10))
written = after.sequences  # the token ids that were sampled
few = written[: 2 if SMALL else 48]
effect = propagated_effect(model, vectors, few)
print(effect)
print(logit_lens(model, effect, top_k=10).top("layer 29", 5))

# Where in a completion do they act? How far does the effect of one layer carry? By which path does the last but one act?
print(token_shift(model, vectors, written))
print(persistence(model, vectors.only(0, 15, 28), few))
print(path_patching(model, vectors.only(28), few))
