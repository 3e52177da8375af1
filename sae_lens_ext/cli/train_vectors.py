"""`train-vectors`: train steering vectors by reinforcement learning on a file of tasks, and see what they gain on held-out ones."""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_lens_ext.cli.answer import give, say
from sae_lens_ext.cli.common_flags import add_device, add_model, add_seed
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.json_content import interval
from sae_lens_ext.cli.named_models import load_named_model
from sae_lens_ext.cli.quiet import quieten
from sae_lens_ext.cli.task_file import Task, read_tasks, split_tasks
from sae_lens_ext.cli.verb_parser import add_flag, add_verb
from sae_lens_ext.files import write_whole
from sae_lens_ext.run_log import LOG_FILE
from sae_lens_ext.steering.rewards import BoxedEquals, LastNumberEquals, LengthWithin, MatchesPattern
from sae_lens_ext.steering.training.advantages import CONTROLS
from sae_lens_ext.steering.training.measure import measure_reward
from sae_lens_ext.steering.training.reward_measurement import RewardMeasurement
from sae_lens_ext.steering.training.texts import prompt_tokens
from sae_lens_ext.steering.training.train import VECTORS_FILE, train_steering_vectors
from sae_lens_ext.steering.training.training_log import TrainingLog
from sae_lens_ext.steering.vectors import SteeringVectors

LOG_PAGE = "log.html"
BEFORE_FILE, AFTER_FILE = "held_out_before.json", "held_out_after.json"
MOST_HELD_OUT = 64
HELD_OUT_ONE_IN = 5
OF_REWARD = {"last_number": ("stop",), "boxed": (), "pattern": ("pattern",), "length": ("min", "max", "unit")}
"""Flags that only one reward reads."""

DESCRIPTION = """\
Train one vector per layer, added to the residual stream at every token, so that
what the model writes earns more reward (RLOO, arXiv 2509.06608).

Prints the reward on held-out tasks without and with the vectors. The folder
gets vectors.safetensors, log.jsonl and log.html of the training, and both
measurements, held_out_before.json and held_out_after.json.

TASKS holds a JSON object a line: {"prompt": "What is 2 + 3?", "answer": 5}; an
answer only where the reward needs one.

rewards, each 1 or 0:
  last_number  the last number written equals the answer (--stop: only what is
               written before it is read)
  boxed        what is inside the last \\boxed{...} is the answer, letter by
               letter
  pattern      the regular expression --pattern is found in what is written
  length       at least --min and at most --max words (--unit characters:
               characters)

RLOO learns from prompts that the model gets right sometimes: take tasks with a
reward between 0.1 and 0.6 before training. What a training with --control
random gains is not due to the reward. An interrupted command goes on where it
was when it is given again.
"""
EXAMPLES = (
    "sae-lens-ext train-vectors sums.jsonl --reward last_number \\\n    --out my_vectors --chat",
    "sae-lens-ext train-vectors sums.jsonl --reward last_number \\\n    --out random --chat --control random",
    "sae-lens-ext train-vectors problems.jsonl --reward boxed \\\n"
    "    --layers last --lr 0.1 --out last_layer",
    "sae-lens-ext train-vectors prompts.jsonl --reward pattern \\\n"
    "    --pattern '^\\s*[A-Z][a-z]+\\.$' --out one_word",
)


def add_parsers(verbs: Any) -> None:
    """Add the verb to the command's parser."""
    parser = add_verb(
        verbs,
        "train-vectors",
        run,
        help="steering vectors by reinforcement learning on tasks",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    parser.add_argument("tasks", type=Path, metavar="TASKS", help="a file of JSON lines")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder for vectors, log and measurements",
    )
    _add_reward(parser.add_argument_group("the reward"))
    _add_training(parser.add_argument_group("training"))
    measured = parser.add_argument_group("what is measured")
    measured.add_argument(
        "--held-out",
        type=int,
        metavar="N",
        help=f"tasks to measure on and not to train on (default: one in {HELD_OUT_ONE_IN}, at most {MOST_HELD_OUT})",
    )
    measured.add_argument(
        "--samples",
        type=int,
        default=16,
        metavar="N",
        help="samples of a held-out prompt (default: %(default)s)",
    )
    running = parser.add_argument_group("how it runs")
    add_model(running, default="embedded", folder=True)
    running.add_argument(
        "--chat", action="store_true", help="put each prompt into the chat template of the model's tokenizer"
    )
    running.add_argument(
        "--no-bos",
        action="store_true",
        help="no BOS before the prompts; with --chat there is none but the template's",
    )
    add_flag(
        running,
        "--micro-batch-size",
        old="--batch-size",
        type=int,
        default=64,
        metavar="N",
        help="samples run at once, for less memory (default: %(default)s)",
    )
    add_device(running)
    add_seed(running, "the sampling and the order of the tasks")


def _add_reward(group: Any) -> None:
    group.add_argument("--reward", choices=tuple(OF_REWARD), required=True, help="what is rewarded")
    group.add_argument(
        "--pattern",
        metavar="RE",
        help="a regular expression of Python's; write --pattern=RE if it begins with a minus sign (default: none)",
    )
    group.add_argument("--min", type=int, metavar="N", help="smallest length (default: 0)")
    group.add_argument("--max", type=int, metavar="N", help="largest length (default: none)")
    group.add_argument("--unit", choices=("words", "characters"), help="of the length (default: words)")
    group.add_argument(
        "--stop", help=r"reads the last number before this text; \n is a line break (default: all is read)"
    )


def _add_training(group: Any) -> None:
    group.add_argument(
        "--layers", default="all", help="all, last, or numbers as 0,5,29 (default: %(default)s)"
    )
    for flag, default, what in (
        ("--steps", 100, "updates"),
        ("--prompts-per-step", 8, "prompts of an update"),
        ("--group-size", 16, "samples of a prompt, at least 2"),
        ("--max-new-tokens", 32, "tokens of a sample, at most"),
    ):
        group.add_argument(
            flag, type=int, default=default, metavar="N", help=f"{what} (default: %(default)s)"
        )
    group.add_argument(
        "--lr",
        type=float,
        default=1e-3,
        help="learning rate; a single layer needs more (default: %(default)s)",
    )
    group.add_argument(
        "--temperature", type=float, default=1.0, help="of the sampling (default: %(default)s)"
    )
    group.add_argument(
        "--control",
        choices=CONTROLS,
        help="train on a random reward, or on the true one shuffled within a prompt (default: on the true one)",
    )


def run(options: argparse.Namespace) -> None:
    """Train and measure as the options say."""
    quieten()
    _require_options(options)
    _reward({"": "1"}, options)  # refuses a pattern or a length that will not do
    tasks = read_tasks(
        options.tasks,
        (lambda prompt, answer: _reward({prompt: answer}, options)) if _needs_answers(options) else None,
    )
    training, held_out = split_tasks(tasks, _n_held_out(tasks, options))
    model = load_named_model(options.model, options.device)
    layers = _layers(options.layers, model.cfg.n_layers)
    if options.chat:
        training, held_out = _in_chat(model, training), _in_chat(model, held_out)
    reward = _reward({task.prompt: task.answer for task in (*training, *held_out)}, options)
    alike: dict[str, Any] = {
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "prepend_bos": not (options.chat or options.no_bos),
        "seed": options.seed,
    }
    _require_measurable(model, held_out, alike, options)
    try:
        vectors = train_steering_vectors(
            model,
            [task.prompt for task in training],
            reward,
            layers=layers,
            group_size=options.group_size,
            prompts_per_step=options.prompts_per_step,
            steps=options.steps,
            lr=options.lr,
            control=options.control,
            micro_batch_size=options.micro_batch_size,
            folder=options.out,
            **alike,
        )
        log = TrainingLog.load(options.out)
        write_whole(options.out / LOG_PAGE, log.plot().to_html())
        say(options, _trained(vectors, log, training, options))
        measured: tuple[RewardMeasurement, RewardMeasurement] | None = None
        if held_out:
            prompts = [task.prompt for task in held_out]
            alike |= {
                "samples_per_prompt": options.samples,
                "batch_size": options.micro_batch_size,
                "show_progress": True,
            }
            before = measure_reward(model, prompts, reward, **alike)
            after = measure_reward(model, prompts, reward, intervention=vectors.interventions(model), **alike)
            before.save(options.out / BEFORE_FILE)
            after.save(options.out / AFTER_FILE)
            measured = before, after
            say(options, _gained(before, after, options))
    except KeyboardInterrupt:
        print("Each finished step is saved. Give the same command again to go on.", file=sys.stderr)
        raise
    words = ("sae-lens-ext", "lens", str(options.out / VECTORS_FILE), "--model", options.model)
    say(options, f"Next, the tokens they speak for: {shlex.join(words)}")
    trained = {"layers": list(vectors.layers), "steps": len(log.rows), "training_tasks": len(training)}
    give(options, {**trained, **_content(measured, options)})


def _require_measurable(
    model: Any, held_out: Sequence[Task], alike: dict[str, Any], options: argparse.Namespace
) -> None:
    """Raise before anything is trained if the held-out tasks could not be measured afterwards."""
    if options.samples < 1:
        raise CommandError(f"--samples {options.samples} measures nothing. Give at least 1.")
    if held_out:
        prompt_tokens(
            "train-vectors",
            model,
            [task.prompt for task in held_out],
            prepend_bos=alike["prepend_bos"],
            max_new_tokens=options.max_new_tokens,
        )


def _content(
    measured: tuple[RewardMeasurement, RewardMeasurement] | None, options: argparse.Namespace
) -> dict[str, Any]:
    """Give what was measured, and where everything is, as JSON has it."""
    out: Path = options.out
    files = {"vectors": out / VECTORS_FILE, "log": out / LOG_FILE, "log_page": out / LOG_PAGE}
    content = {"control": options.control, "held_out": None}
    if measured is None:
        return {**content, "files": files}
    before, after = measured
    content["held_out"] = {
        "unit": "mean reward; 95 % intervals over tasks",
        "tasks": len(before.prompts),
        "samples": before.rewards.shape[1],
        "before": interval(before.estimate),
        "after": interval(after.estimate),
        "gain": interval(after.gain_over(before)),
    }
    files |= {"held_out_before": out / BEFORE_FILE, "held_out_after": out / AFTER_FILE}
    return {**content, "files": files}


def _trained(
    vectors: SteeringVectors, log: TrainingLog, training: Sequence[Task], options: argparse.Namespace
) -> str:
    """Say where everything is."""
    out: Path = options.out
    n = len(vectors.layers)
    layers = f"{n} layers" if n > 1 else f"layer {vectors.layers[0]}"
    return (
        f"Vectors of {layers}, {len(log.rows)} steps on {len(training)} tasks: {out / VECTORS_FILE}\n"
        f"Log: {log.path}, drawn in {out / LOG_PAGE}"
    )


def _gained(before: RewardMeasurement, after: RewardMeasurement, options: argparse.Namespace) -> str:
    """Say what the vectors gain."""
    lines = [
        f"Reward on {len(before.prompts)} held-out tasks, {before.rewards.shape[1]} samples each (95 % intervals over tasks):",
        f"  without the vectors  {before.estimate}",
        f"  with the vectors     {after.estimate}",
        f"  gain                 {after.gain_over(before)}",
    ]
    if before.mean in (0.0, 1.0):
        lines.append(
            f"Without the vectors every sample gets {before.mean:g}. RLOO learns from prompts that are right sometimes: take other tasks."
        )
    if options.control is not None:
        lines.append(
            f"They were trained under the control {options.control!r}: no gain is due to the reward."
        )
    return "\n".join(lines)


def _needs_answers(options: argparse.Namespace) -> bool:
    return options.reward in ("last_number", "boxed")


def _reward(answers: dict[str, Any], options: argparse.Namespace) -> Any:
    if options.reward == "last_number":
        stop = options.stop
        return LastNumberEquals(answers, stop=None if stop is None else stop.replace(r"\n", "\n"))
    if options.reward == "boxed":
        return BoxedEquals(answers)
    if options.reward == "pattern":
        return MatchesPattern(options.pattern)
    return LengthWithin(options.min or 0, options.max, options.unit or "words")


def _require_options(options: argparse.Namespace) -> None:
    for reward, flags in OF_REWARD.items():
        given = next((flag for flag in flags if getattr(options, flag) is not None), None)
        if given is not None and reward != options.reward:
            raise CommandError(
                f"--{given} goes with --reward {reward}, not with {options.reward}. Leave it out, or choose that reward."
            )
    if options.reward == "pattern" and options.pattern is None:
        raise CommandError("--reward pattern needs a regular expression. Give --pattern.")
    if options.reward == "length" and options.min is None and options.max is None:
        raise CommandError("--reward length needs a limit. Give --min, --max or both.")
    if options.out.exists() and not options.out.is_dir():
        raise CommandError(f"--out {options.out} is a file. Give a folder, or one that does not exist yet.")


def _n_held_out(tasks: Sequence[Task], options: argparse.Namespace) -> int:
    if options.held_out is None:
        return min(MOST_HELD_OUT, len(tasks) // HELD_OUT_ONE_IN)
    if not 0 <= options.held_out < len(tasks):
        raise CommandError(
            f"--held-out {options.held_out} does not leave anything to train on, or is no number of tasks: {options.tasks} has {len(tasks)}. Give a number from "
            f"0 to {len(tasks) - 1}."
        )
    return options.held_out


def _layers(text: str, n_layers: int) -> list[int] | None:
    """Read which layers to train; None for all."""
    if text == "all":
        return None
    if text == "last":
        return [n_layers - 1]
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,6}", word) and int(word) < n_layers for word in words):
        raise CommandError(
            f"--layers {text!r} names no layers of this model, which has 0 to {n_layers - 1}. Give all, last, or numbers with commas between, such as 0,5."
        )
    return [int(word) for word in words]


def _in_chat(model: Any, tasks: Sequence[Task]) -> list[Task]:
    """Give tasks as the model reads a user's message, up to where the answer begins."""
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise CommandError("--chat: this model's tokenizer has no chat template. Leave it out.")

    def wrapped(prompt: str) -> str:
        message = [{"role": "user", "content": prompt}]
        return tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)

    return [Task(wrapped(task.prompt), task.answer) for task in tasks]
