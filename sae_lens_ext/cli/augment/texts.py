"""The texts of an augmentation: loaded, split by document, packed into contexts, mixed."""

from typing import Any

from datasets import Dataset

from sae_lens_ext.cli.augment.plan import GENERAL, Plan
from sae_lens_ext.cli.sources import CHARACTERS_PER_TOKEN, HELD_OUT_ONE_IN, load_documents, split_documents
from sae_lens_ext.language_model import contexts, mix_datasets


def load_texts(plan: Plan) -> dict[str, tuple[list[str], list[str]]]:
    """Load the domains' texts and the general one, each split into training and held-out documents."""
    measured = CHARACTERS_PER_TOKEN * HELD_OUT_ONE_IN * max(plan.eval_tokens, plan.latent_tokens)
    asked = plan.training_tokens
    limit = None if asked is None else CHARACTERS_PER_TOKEN * asked + measured
    texts = {name: load_documents(text, limit) for name, text in plan.domains.items()}
    if plan.general:
        longest = max(sum(map(len, documents)) for documents in texts.values())
        if asked is not None:
            longest = min(longest, CHARACTERS_PER_TOKEN * asked)
        share = plan.general_fraction / (1 - plan.general_fraction)
        texts[GENERAL] = load_documents(plan.general, int(2 * share * longest) + measured)
    return {name: split_documents(documents) for name, documents in texts.items()}


def training_data(plan: Plan, model: Any, documents: dict[str, list[str]]) -> dict[str, Dataset]:
    """Pack each domain's training documents into contexts, general text mixed in."""
    what = "The text {!r}, without the tenth of its documents that is held out,"
    packed = {
        name: pack(plan, model, documents[name], what.format(name))
        for name in (*plan.domains, *([GENERAL] if plan.general_fraction > 0 else []))
    }
    general = packed.pop(GENERAL, None)
    if general is None:
        return {name: own.shuffle(seed=plan.seed) for name, own in packed.items()}
    return {
        name: mix_datasets(own, general, general_fraction=plan.general_fraction, seed=plan.seed)
        for name, own in packed.items()
    }


def pack(plan: Plan, model: Any, documents: list[str], what: str) -> Dataset:
    """Pack documents into contexts; raises ValueError, naming them as `what`, if they do not fill one."""
    return contexts(documents, model.tokenizer, context_size=plan.context_size, seed=plan.seed, what=what)
