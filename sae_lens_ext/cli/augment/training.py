"""Train the residual SAE of one domain, going on from its last checkpoint if there is one."""

import zlib
from typing import Any

from datasets import Dataset
from sae_lens import SAE
from sae_lens.util import temporary_seed
from tqdm.auto import tqdm

from sae_lens_ext.architectures.loading import load_sae
from sae_lens_ext.architectures.residual import ResidualTrainingSAE
from sae_lens_ext.cli.augment.augmented import RESIDUALS
from sae_lens_ext.cli.augment.plan import Plan, runner_config, sae_config, training_tokens
from sae_lens_ext.run_folder import RunFolder
from sae_lens_ext.training.runner import DataParallelRunner


def train(
    plan: Plan, folder: RunFolder, model: Any, base: SAE[Any], domain: str, contexts: Dataset
) -> SAE[Any]:
    """Train, save and load back a domain's residual SAE; loads it only if a run before this one has finished it.

    Args:
        plan: The plan.
        folder: Where everything goes.
        model: The language model.
        base: The base SAE; it is read only.
        domain: The domain.
        contexts: What to train on, general text mixed in: a data set with the column "input_ids".

    Returns:
        The residual in inference form.
    """
    output_path = folder.path / RESIDUALS / domain
    if not folder.is_trained(domain):
        checkpoint = folder.latest_checkpoint(domain)
        if checkpoint is not None:
            tqdm.write(f"{domain}: going on from the checkpoint at {checkpoint.name} tokens.")
        tokens = training_tokens(plan, len(contexts))
        cfg = runner_config(
            plan,
            sae_config(plan, base.cfg.d_in, training_tokens=tokens),
            training_tokens=tokens,
            dataset_path=plan.domains[domain],
            hook_head_index=base.cfg.metadata.hook_head_index,
            model_from_pretrained_kwargs=base.cfg.metadata.model_from_pretrained_kwargs or {},
            checkpoint_path=str(folder.checkpoints(domain)),
            output_path=str(output_path),
            resume_from_checkpoint=None if checkpoint is None else str(checkpoint),
        )
        cfg.seed = seed_of(plan, domain)
        with folder.timed(domain):
            with temporary_seed(cfg.seed):
                sae = ResidualTrainingSAE(cfg.sae, base=base)
            DataParallelRunner(cfg, override_model=model, override_dataset=contexts, override_sae=sae).run()
        record = {
            "tokens": tokens,
            "seconds": round(folder.training_seconds(domain), 1),
            "resumed": checkpoint is not None,
        }
        folder.mark_trained(domain, record)
    return load_sae(output_path, device=plan.device)


def seed_of(plan: Plan, domain: str) -> int:
    """Give each domain a seed of its own.

    With one seed all domains' residuals, and a base that was trained with it, would start from the same decoder rows.
    """
    return zlib.crc32(f"{plan.seed}/{domain}".encode())
