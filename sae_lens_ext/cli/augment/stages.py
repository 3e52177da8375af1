"""The stages of an augmentation: train, stack, export, measure, report; each only if it is not finished yet."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from sae_lens import SAE

from sae_lens_ext.analysis.domains import DomainReport, evaluate_domains
from sae_lens_ext.analysis.new_latents import NewLatents, compare_new_latents
from sae_lens_ext.architectures.base_sae import require_same_site
from sae_lens_ext.architectures.residual_stack import ResidualStackSAE
from sae_lens_ext.cli.augment.augmented import NATIVE, REPORT_FILE, STACK, Augmented, latents_file
from sae_lens_ext.cli.augment.page import page
from sae_lens_ext.cli.augment.plan import ALONE, EVERYTHING, GENERAL, Plan, sae_config, training_tokens
from sae_lens_ext.cli.augment.texts import load_texts, pack, training_data
from sae_lens_ext.cli.augment.training import train
from sae_lens_ext.cli.sources import load_any_language_model, require_width
from sae_lens_ext.files import write_whole
from sae_lens_ext.language_model import find_hook_point, require_context_fits
from sae_lens_ext.run_folder import RunFolder

logger = logging.getLogger(__name__)


def augment(plan: Plan, base: SAE[Any], out: Path) -> Augmented:
    """Train, stack, export, measure and report, each stage only if it is not finished in `out` yet.

    Raises:
        ValueError: `out` holds something else.
        CommandError: The base does not fit the model's hook.
        ValueError: A text is too short.
        FolderInUseError: Another process works in `out`.
    """
    folder = RunFolder(out, plan, "`sae-lens-ext augment`")
    base.cfg.metadata.hook_name = plan.hook
    if base.cfg.metadata.prepend_bos is False:
        logger.warning(
            "The base was trained without BOS, but contexts begin with it here. BOS itself is neither trained on nor measured."
        )
    model: Any = load_any_language_model(
        plan.model, plan.model_class, plan.device, base.cfg.metadata.model_from_pretrained_kwargs
    )
    hook = _require_place(plan, model, base)
    texts = load_texts(plan)
    held_out = {name: documents for name, (_, documents) in texts.items()}
    for name, documents in held_out.items():
        pack(plan, model, documents, f"The held-out tenth of the documents of {name!r}")
    data = training_data(plan, model, {name: documents for name, (documents, _) in texts.items()})
    for dataset in data.values():
        sae_config(plan, base.cfg.d_in, training_tokens=training_tokens(plan, len(dataset)))
    with folder.working():
        return _run_stages(plan, replace(plan, hook=hook), folder, model, base, data, held_out)


def _run_stages(
    plan: Plan,
    located: Plan,
    folder: RunFolder,
    model: Any,
    base: SAE[Any],
    data: dict[str, Dataset],
    held_out: dict[str, list[str]],
) -> Augmented:
    """Run the stages; `located` is the plan with the model's own name of the hook."""
    residuals = {
        domain: train(located, folder, model, base, domain, dataset) for domain, dataset in data.items()
    }
    stack = ResidualStackSAE.from_saes(base, residuals)
    stack.save_model(folder.path / STACK)
    native = _save_native(stack, folder.path / NATIVE)

    report = _remembered(
        folder.path / REPORT_FILE,
        DomainReport,
        lambda: evaluate_domains(
            model,
            _variants(stack),
            held_out,
            context_size=plan.context_size,
            max_tokens=plan.eval_tokens,
            batch_size=plan.eval_batch_prompts,
            autocast=True,
            seed=plan.seed,
        ),
    )
    latents = {
        domain: _remembered(
            folder.path / latents_file(domain),
            NewLatents,
            lambda domain=domain: compare_new_latents(
                model,
                stack,
                {name: held_out[name] for name in (domain, GENERAL) if name in held_out},
                domain=domain,
                n_latents=min(plan.n_latents, plan.d_sae),
                context_size=plan.context_size,
                max_tokens=plan.latent_tokens,
                batch_size=plan.eval_batch_prompts,
                autocast=True,
                seed=plan.seed,
            ),
        )
        for domain in plan.domains
    }
    trained = {domain: folder.trained_record(domain) for domain in plan.domains}
    write_whole(folder.page, page(plan, trained, report, latents, native))
    return Augmented(folder.path, report, trained, native)


def _require_place(plan: Plan, model: Any, base: SAE[Any]) -> str:
    """Check that the base fits the model where it reads; gives the model's own name of the hook.

    Raises:
        ValueError: It does not.
    """
    require_context_fits(model, plan.context_size)
    # The base may call it by HookedTransformer's name and the model not.
    hook = find_hook_point(model, plan.hook).name
    assert hook is not None
    require_same_site(base, base.cfg.d_in, hook, f"the {type(model).__name__}")
    require_width(
        model,
        hook,
        base.cfg.metadata.hook_head_index,
        base.cfg.d_in,
        "The base belongs to another model or hook: name them with --model and --hook.",
    )
    return hook


def _variants(stack: ResidualStackSAE) -> dict[str, SAE[Any]]:
    """The base, each domain alone on it and, if there are several, all together."""
    variants: dict[str, SAE[Any]] = {ALONE: stack.with_active(())}
    variants |= {domain: stack.with_active((domain,)) for domain in stack.domains}
    if len(stack.domains) > 1:
        variants[EVERYTHING] = stack.with_active(stack.domains)
    return variants


def _save_native(stack: ResidualStackSAE, path: Path) -> str | None:
    """Save the native form if there is one; returns why there is none, or None."""
    try:
        native = stack.to_native()
    except ValueError as error:
        return str(error)
    native.save_model(path)
    return None


def _remembered(path: Path, kind: Any, compute: Any) -> Any:
    """Load a result that a run before this one has finished, or compute and save it."""
    if path.is_file():
        return kind.load(path)
    result = compute()
    result.save(path)
    return result
