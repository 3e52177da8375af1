"""`steer`: what a model writes with a feature of an SAE at several strengths, side by side in the terminal."""

import argparse
import math
import shutil
import textwrap
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens import SAE

from sae_lens_ext.architectures.loading import load_sae
from sae_lens_ext.cli.answer import give, say
from sae_lens_ext.cli.common_flags import add_device, add_hook, add_model, add_model_class, add_seed
from sae_lens_ext.cli.devices import usable_device
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.quiet import quieten
from sae_lens_ext.cli.sources import load_any_language_model
from sae_lens_ext.cli.trained_on import hook_of, model_class_of, model_of
from sae_lens_ext.cli.verb_parser import add_flag, add_verb
from sae_lens_ext.steering import AblateFeature, AddFeature, ClampFeature, Intervention, ScaleFeature, steer
from sae_lens_ext.steering.dose_response.sampling import Sampled, Sampler
from sae_lens_ext.steering.token_selection import PHASES

DEFAULT_STRENGTHS = {
    "add": (0.0, 0.1, 0.2, 0.4),
    "scale": (1.0, 0.0, -4.0, -16.0),
    "clamp": (0.0, 4.0, 8.0, 16.0),
    "ablate": (0.0,),
}
RAW_STRENGTHS = (0.0, 4.0, 8.0, 16.0)
UNSTEERED = {"add": 0.0, "scale": 1.0}
"""The strength at which a kind changes nothing."""
BATCH_SIZE = 16

DESCRIPTION = """\
Show what a model writes while one feature of an SAE is steered.

Prints, for each prompt, one text per strength, sampled with the same random
numbers, the unsteered model's among them. The number behind a text is the
cross-entropy of the unsteered model on it, in nats per token: how unlikely it
finds it.

kinds:
  add     h += strength · ‖h‖ · d, active or not; d is the feature's direction
          at unit length; with --raw h += strength · d
  scale   h += (strength − 1) · a · d, of its live activation a: 0 removes it,
          below 0 subtracts more
  clamp   its activation is set to strength
  ablate  its activation is set to 0; takes no strengths

Lists that begin with a minus sign need "=": --strengths=-4,-8 --positions=-1,2.
SAEs are trained without BOS, on which many features fire: --positions=1: leaves
it alone.
"""
EXAMPLES = (
    'sae-lens-ext steer my_sae --feature 1234 --prompt "The weather today is"',
    "sae-lens-ext steer my_sae --feature 1234 --strengths=0,0.2,0.4 \\\n"
    '    --prompt "I think" --prompt "Once"',
    'sae-lens-ext steer my_sae --feature 1234 --raw --strengths=0,20,40 \\\n    --prompt "Once"',
    'sae-lens-ext steer my_sae --feature 1234 --kind scale --strengths=1,0,-8 \\\n    --prompt "The sea" --json',
)


def add_parsers(verbs: Any) -> None:
    """Add the verb to the command's parser."""
    parser = add_verb(
        verbs,
        "steer",
        run,
        help="what a model writes at several strengths of a feature",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    parser.add_argument("sae", type=Path, metavar="SAE_FOLDER", help="a saved SAE")
    steered = parser.add_argument_group("what is steered")
    add_flag(
        steered,
        "--feature",
        old="--index",
        type=int,
        required=True,
        metavar="N",
        help="the SAE's feature, from 0",
    )
    steered.add_argument(
        "--kind",
        choices=tuple(DEFAULT_STRENGTHS),
        default="add",
        help="see above (default: %(default)s)",
    )
    steered.add_argument(
        "--strengths",
        help="numbers with commas between (default: add 0,0.1,0.2,0.4, with --raw 0,4,8,16; scale 1,0,-4,-16; clamp 0,4,8,16)",
    )
    steered.add_argument(
        "--raw",
        action="store_true",
        help="strengths in the units of the activations, not in lengths of each token's activation (kind add only)",
    )
    steered.add_argument(
        "--positions",
        help="tokens to act on, BOS being 0: one such as 3 or -1 (the prompt's last), several as 1,2,5, a slice as 1:; "
        "write --positions=-1,2, with =, for a list that begins with a minus sign (default: all)",
    )
    steered.add_argument(
        "--phases", default=",".join(PHASES), help="prompt, generation, or both (default: %(default)s)"
    )
    add_hook(steered, "to act")
    written = parser.add_argument_group("what is written")
    written.add_argument(
        "--prompt",
        action="append",
        required=True,
        metavar="TEXT",
        help="what to continue; may be given several times",
    )
    written.add_argument(
        "--max-new-tokens",
        type=int,
        default=40,
        metavar="N",
        help="tokens to write, at most (default: %(default)s)",
    )
    written.add_argument(
        "--temperature", type=float, default=1.0, help="0 takes the likeliest token (default: %(default)s)"
    )
    written.add_argument(
        "--top-p",
        type=float,
        default=0.9,
        help="sample from the likeliest tokens with this probability in sum (default: %(default)s)",
    )
    running = parser.add_argument_group("how it runs")
    add_model(running, of="the SAE's")
    add_model_class(running, "the SAE's")
    add_device(running)
    add_seed(running, "the sampling")


def run(options: argparse.Namespace) -> None:
    """Write and print as the options say."""
    quieten()
    _require_sampling(options)
    sae = load_sae(options.sae, device=usable_device(options.device))
    hook = hook_of(sae, options.hook)
    arms = _arms(sae, options)
    model = _model_of(sae, options)
    sampler = Sampler(model, options.max_new_tokens, options.temperature, options.top_p)
    prompts = sampler.tokenize(options.prompt, room=options.max_new_tokens)
    batches = sampler.batches(prompts, 1, BATCH_SIZE, options.seed)
    found: list[list[Sampled]] = []
    for arm in arms:
        intervention = arm.intervention
        try:
            with nullcontext() if intervention is None else steer(model, intervention):
                written = [sampler.write(batch) for batch in batches]
        except RuntimeError as error:
            if "acted on no token" not in str(error):
                raise
            raise CommandError(
                f"--positions {options.positions} with --phases {options.phases} names no token of these prompts and of what was written, so that "
                "nothing was steered. Give others, or leave them out."
            ) from error
        texts = [
            one for batch, tokens in zip(batches, written, strict=True) for one in sampler.read(batch, tokens)
        ]
        found.append(sorted(texts, key=lambda one: one.prompt))
    say(options, _heading(sae, hook, options))
    for i, prompt in enumerate(options.prompt):
        say(options, f"\n{_wrapped(prompt, '> ', '> ')}")
        for arm, texts in zip(arms, found, strict=True):
            say(options, f"\n  {arm.label}   [{texts[i].cross_entropy:.2f}]")
            say(
                options,
                _wrapped(texts[i].text.removeprefix(" "), "    ", "    ")
                if texts[i].text.strip()
                else "    (nothing)",
            )
    give(options, {**_content(sae, hook, options), "prompts": _written(options.prompt, arms, found)})


def _content(sae: SAE[Any], hook: str, options: argparse.Namespace) -> dict[str, Any]:
    """Say what was steered and how, as JSON has it."""
    settings = (
        "feature",
        "kind",
        "raw",
        "positions",
        "phases",
        "max_new_tokens",
        "temperature",
        "top_p",
        "seed",
    )
    return {
        "sae": options.sae,
        "architecture": sae.cfg.architecture(),
        "hook": hook,
        "model": model_of(sae, options.model),
        "neuronpedia": _link(sae, options.feature),
        **{name: getattr(options, name) for name in settings},
    }


def _written(
    prompts: Sequence[str], arms: Sequence["_Arm"], found: Sequence[Sequence[Sampled]]
) -> list[dict[str, Any]]:
    """Give what was written for each prompt, as JSON has it."""
    return [
        {
            "prompt": prompt,
            "texts": [
                {
                    "label": arm.label,
                    "strength": arm.strength,
                    "steered": arm.intervention is not None,
                    "text": texts[i].text,
                    "cross_entropy": texts[i].cross_entropy,
                }
                for arm, texts in zip(arms, found, strict=True)
            ],
        }
        for i, prompt in enumerate(prompts)
    ]


@dataclass(frozen=True)
class _Arm:
    """One of the things compared."""

    label: str
    """What it is called on the screen."""
    strength: float | None
    """The number given; None where there is none."""
    intervention: Intervention | None
    """What acts on the model; None leaves it alone."""


def _arms(sae: SAE[Any], options: argparse.Namespace) -> list[_Arm]:
    """Give what to compare: always the unsteered model, and each strength."""
    kind, feature = options.kind, options.feature
    where: dict[str, Any] = {
        "hook_name": options.hook,
        "positions": _positions(options.positions),
        "phases": tuple(word.strip() for word in options.phases.split(",")),
    }
    arms: list[_Arm] = []
    for strength in _strengths(options):
        if UNSTEERED.get(kind) == strength:
            arms.append(_Arm(f"{kind} {strength:g} (unsteered)", strength, None))
        elif kind == "add":
            made = AddFeature(sae, feature, strength, relative=not options.raw, **where)
            arms.append(_Arm(f"add {strength:g}{'' if options.raw else ' · ‖h‖'}", strength, made))
        elif kind == "scale":
            arms.append(_Arm(f"scale {strength:g}", strength, ScaleFeature(sae, feature, strength, **where)))
        elif kind == "clamp":
            arms.append(_Arm(f"clamp {strength:g}", strength, ClampFeature(sae, feature, strength, **where)))
        else:
            arms.append(_Arm("ablate", None, AblateFeature(sae, feature, **where)))
    if all(arm.intervention is not None for arm in arms):
        arms.insert(0, _Arm("unsteered", None, None))
    elif len(arms) == 1:
        raise CommandError(f"--strengths {options.strengths} steers nothing. Give other strengths as well.")
    return arms


def _strengths(options: argparse.Namespace) -> Sequence[float]:
    if options.raw and options.kind != "add":
        raise CommandError(
            f"--raw goes with --kind add, not with {options.kind}, whose strengths are never relative. Leave it out."
        )
    if options.strengths is None:
        return RAW_STRENGTHS if options.raw else DEFAULT_STRENGTHS[options.kind]
    if options.kind == "ablate":
        raise CommandError(
            "--kind ablate takes no --strengths. Leave them out, or choose --kind scale or clamp."
        )
    try:
        found = [float(word) for word in options.strengths.split(",")]
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)) or len(set(found)) < len(found):
        raise CommandError(
            f"--strengths {options.strengths!r} is no list of different numbers. Give numbers with commas between, such as --strengths=0,0.2,0.4."
        )
    return found


def _positions(text: str | None) -> Any:
    """Read positions as Python writes them: 3, -1, 1,2,5, or 1:4."""
    if text is None or text == "all":
        return None
    try:
        if ":" in text:
            return slice(*(int(part) if part.strip() else None for part in text.split(":")))
        several = [int(part) for part in text.split(",")]
    except (ValueError, TypeError) as error:
        raise CommandError(
            f"--positions {text!r} names no tokens. Give a position (3, or -1 for the prompt's last), several (1,2,5), or a slice (1:)."
        ) from error
    return several[0] if len(several) == 1 else several


def _model_of(sae: SAE[Any], options: argparse.Namespace) -> Any:
    name = model_of(sae, options.model)
    model_class = model_class_of(sae, name, options.model_class)
    if model_class not in ("TransformerBridge", "HookedTransformer"):
        raise CommandError(
            f"The model class {model_class} cannot be steered. Choose one with --model-class HookedTransformer, or TransformerBridge for the "
            "embedded model."
        )
    return load_any_language_model(
        name, model_class, options.device, sae.cfg.metadata.model_from_pretrained_kwargs
    )


def _require_sampling(options: argparse.Namespace) -> None:
    if options.max_new_tokens < 1:
        raise CommandError(f"--max-new-tokens {options.max_new_tokens} writes nothing. Give at least 1.")
    if not (math.isfinite(options.temperature) and options.temperature >= 0):
        raise CommandError(f"--temperature {options.temperature} is no temperature. Give a number from 0 on.")
    if not 0 < options.top_p <= 1:
        raise CommandError(f"--top-p {options.top_p} is no probability. Give a number above 0 and up to 1.")
    empty = next((prompt for prompt in options.prompt if not prompt.strip()), None)
    if empty is not None:
        raise CommandError(f"--prompt {empty!r} is empty. Give a text to continue.")


def _heading(sae: SAE[Any], hook: str, options: argparse.Namespace) -> str:
    link = _link(sae, options.feature)
    heading = f"Feature {options.feature} of {options.sae} ({sae.cfg.architecture()}) at {hook}"
    return heading if link is None else f"{heading}\n{link}"


def _link(sae: SAE[Any], feature: int) -> str | None:
    neuronpedia_id = sae.cfg.metadata.neuronpedia_id
    return f"https://neuronpedia.org/{neuronpedia_id}/{feature}" if neuronpedia_id else None


def _wrapped(text: str, first: str, rest: str) -> str:
    """Fit text to the terminal, keeping its line breaks."""
    width = max(40, min(120, shutil.get_terminal_size().columns))
    lines = [
        wrapped
        for line in text.splitlines()
        for wrapped in textwrap.wrap(line, width - len(rest), break_on_hyphens=False) or [""]
    ]
    return "\n".join(f"{first if i == 0 else rest}{line}".rstrip() for i, line in enumerate(lines))
