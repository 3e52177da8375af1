"""Train one SAE from several seeds, on one forward pass of the language model."""

from pathlib import Path
from typing import Any

from sae_lens import SAE
from sae_lens.config import HfDataset
from tqdm.auto import tqdm

from sae_lens_ext.analysis.seeds.plan import RunnerConfig, Seeds, Vary, seed_plan
from sae_lens_ext.analysis.seeds.runner import SeedsRunner
from sae_lens_ext.architectures.inference import as_inference
from sae_lens_ext.run_folder import RunFolder

_STAGE = "saes"  # the one stage of training, in the folder's records


def train_seeds(
    cfg: RunnerConfig,
    seeds: Seeds,
    *,
    vary: Vary = "initialisation",
    override_model: Any = None,
    override_dataset: HfDataset | None = None,
    keep_checkpoints: bool = False,
) -> list[SAE[Any]]:
    """Train SAEs that differ in nothing but their seed, in one run of SAELens' `MultiSAETrainingRunner`.

    SAELens reads `cfg.seed` nowhere: initial weights and the mixing of the activations draw on torch's global generator. Here
    `cfg.seed` decides what the SAEs have in common, and `seeds` what they have not.

    With an `output_path` the SAEs are saved in its subfolders `seed_0`, `seed_1`, …, each with its two seeds in its metadata
    (`initialisation_seed`, `data_order_seed`), and the run can be interrupted: called again in the same way, it goes on from its
    last checkpoint (`cfg.n_checkpoints` of them are written on the way, and one when it is interrupted), and loads what is
    finished. A run taken up again mixes the activations that were left otherwise than one that was not interrupted, for all SAEs
    alike; where the order differs from SAE to SAE, each has seen other rows of what was in the buffer then. The record in
    `trained/saes.json` says whether a run was taken up again. An interrupt waits for the end of the step, so that all SAEs of a
    checkpoint have seen equally many batches. With `output_path = None` nothing is written.

    The folder knows the language model and the text by what `cfg` calls them: for another `override_model` or `override_dataset`
    give another folder, or another name in `cfg`.

    Args:
        cfg: What to train, of any architecture: SAELens' `LanguageModelSAERunnerConfig`, or `MultiSAETrainingRunnerConfig` for several
            architectures or hooks side by side. Its `checkpoint_path` is not used: checkpoints lie in the output folder. It is left
            as it is.
        seeds: Two or more, such as `range(8)`; with several architectures, the same for all, or a mapping by name. The SAEs are then
            saved as `NAME_seed_0`, ….
        vary: "initialisation": initial weights differ, all see the same batches in the same order. "data_order": initial weights are
            equal, each sees the activations in an order of its own. "both": both differ. The order differs within what SAELens
            keeps in its buffer, `n_batches_in_buffer` contexts, which are then held once more: the model runs once for all.
        override_model: As for SAELens' runner: the language model, instead of loading `cfg.model_name`.
        override_dataset: As for SAELens' runner: the text, instead of `cfg.dataset_path`.
        keep_checkpoints: Keep the checkpoints when training is finished, to see how the SAEs came about.

    Returns:
        The SAEs in inference form, architecture by architecture, in the order of the seeds.

    Raises:
        ValueError: There are fewer than two seeds or one is given twice; the configuration asks for what SAELens' multi-SAE runner
            does not do, or to resume; `output_path` holds something else, or a run of other settings; the model has no such
            hook, or activations of another width there; the architecture draws the same initial weights for every seed, so that
            anything would look stable; the buffer is too small for orders that differ; there are no checkpoints to keep.
    """
    plan = seed_plan(cfg, seeds, vary)
    if keep_checkpoints:
        _require_checkpoints(cfg)
    if cfg.output_path is None:
        runner = SeedsRunner(plan, override_model, override_dataset)
        with runner.interrupt.watching():
            return [as_inference(sae) for sae in runner.train()]
    folder = RunFolder(Path(cfg.output_path), plan, "train_seeds")
    if folder.is_trained(_STAGE):
        if keep_checkpoints and not folder.checkpoints(_STAGE).is_dir():
            raise ValueError(
                f"train_seeds was asked to keep the checkpoints of {folder.path}, but a run that did not keep them has finished there. Leave "
                "keep_checkpoints out to load its SAEs, or give another output_path to train again."
            )
    else:
        checkpoint = folder.latest_checkpoint(_STAGE, [member.name for member in plan.members])
        if checkpoint is not None:
            tqdm.write(f"Going on from the checkpoint at {checkpoint.name} tokens.")
            plan.cfg.resume_from_checkpoint = str(checkpoint)
        plan.cfg.checkpoint_path = str(folder.checkpoints(_STAGE) / "run")
        plan.cfg.output_path = str(folder.path)
        runner = SeedsRunner(plan, override_model, override_dataset)
        folder.claim()
        with runner.interrupt.watching():
            with folder.timed(_STAGE):
                runner.train()
            record = {
                "seconds": round(folder.training_seconds(_STAGE), 1),
                "resumed": checkpoint is not None,
            }
            folder.mark_trained(_STAGE, record, keep_checkpoints=keep_checkpoints)
    return [SAE.load_from_disk(folder.path / member.name, device=cfg.device) for member in plan.members]


def _require_checkpoints(cfg: RunnerConfig) -> None:
    if cfg.output_path is None or (cfg.n_checkpoints == 0 and not cfg.save_final_checkpoint):
        raise ValueError(
            f"train_seeds was given keep_checkpoints, but none are written with n_checkpoints = {cfg.n_checkpoints} and output_path = "
            f"{cfg.output_path!r}. Set n_checkpoints to how many you want on the way, and an output_path."
        )
