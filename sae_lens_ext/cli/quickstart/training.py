"""Train the plan's SAEs in one pass over the text, going on from the last checkpoint if there is one."""

from typing import Any

from datasets import Dataset
from tqdm.auto import tqdm

from sae_lens_ext.cli.quickstart.plan import SAES, Plan, runner_config, sae_configs
from sae_lens_ext.run_folder import RunFolder
from sae_lens_ext.training.divided import DividedRunner


def train(plan: Plan, folder: RunFolder, model: Any, d_in: int, dataset: Dataset) -> None:
    """Train and save the SAEs, unless a run before this one has finished that.

    Interrupted or killed, this goes on from the last checkpoint when it is called again, and ends with the same SAEs.
    """
    if folder.is_trained(SAES):
        return
    checkpoint = folder.latest_checkpoint(SAES, sae_configs(plan, d_in))
    if checkpoint is not None:
        tqdm.write(f"Going on from the checkpoint at {checkpoint.name} tokens.")
    cfg = runner_config(
        plan,
        d_in,
        checkpoint_path=str(folder.checkpoints(SAES)),
        output_path=str(folder.path / SAES),
        resume_from=None if checkpoint is None else str(checkpoint),
    )
    with folder.timed(SAES):
        DividedRunner(cfg, override_model=model, override_dataset=dataset).run()
    record = {"seconds": round(folder.training_seconds(SAES), 1), "resumed": checkpoint is not None}
    folder.mark_trained(SAES, record)
