"""Train one SAE from several seeds, on one forward pass of the language model."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sae_lens import SAE
from sae_lens.config import HfDataset
from tqdm.auto import tqdm

from sae_lens_ext.analysis.seeds.plan import RunnerConfig, SeedPlan, Seeds, Vary, seed_plan
from sae_lens_ext.analysis.seeds.runner import SeedsRunner
from sae_lens_ext.architectures.inference import as_inference
from sae_lens_ext.architectures.loading import load_sae
from sae_lens_ext.ranks import Ranks, current_ranks, one_voice, own_device
from sae_lens_ext.run_folder import RunFolder
from sae_lens_ext.training.divided import require_divisible

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
    finished. A run taken up again ends with the SAEs of one that was not interrupted, on a CPU to the bit: it finds the batch it was
    at. The record in `trained/saes.json` says whether a run was taken up again. An interrupt waits for the end of the step, so
    that all SAEs of a checkpoint have seen equally many batches. With `output_path = None` nothing is written.

    Under `torchrun` the SAEs are divided over the ranks, see `DividedRunner`: each rank runs the model on all of the text, trains every N-th SAE
    and saves it in the one folder, which all ranks must see. The SAEs are those of one process, to the bit; every rank is given all of
    them.

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
            anything would look stable; the buffer is too small for orders that differ; there are no checkpoints to keep; there are
            more ranks than SAEs, or several ranks and no `output_path`.
        FolderInUseError: Another process trains in `output_path`. Nothing was written.
        RankError: A rank did not answer.
    """
    if cfg.output_path is None and current_ranks().size == 1:
        plan = seed_plan(cfg, seeds, vary)
        _require_checkpoints(cfg, keep_checkpoints)
        runner = SeedsRunner(plan, override_model, override_dataset)
        with runner.interrupt.watching():
            return [as_inference(sae) for sae in runner.train()]
    folders = train_seed_folders(
        cfg,
        seeds,
        vary=vary,
        override_model=override_model,
        override_dataset=override_dataset,
        keep_checkpoints=keep_checkpoints,
    )
    return [load_sae(folder, device=own_device(cfg.device)) for folder in folders]


def train_seed_folders(
    cfg: RunnerConfig,
    seeds: Seeds,
    *,
    vary: Vary = "initialisation",
    override_model: Any = None,
    override_dataset: HfDataset | None = None,
    keep_checkpoints: bool = False,
) -> list[Path]:
    """Do as `train_seeds`, and give the folders of the SAEs instead of loading them.

    Args:
        cfg: As for `train_seeds`, with an `output_path`.
        seeds: As for `train_seeds`.
        vary: As for `train_seeds`.
        override_model: As for `train_seeds`.
        override_dataset: As for `train_seeds`.
        keep_checkpoints: As for `train_seeds`.

    Raises:
        ValueError: As for `train_seeds`.
        FolderInUseError: As for `train_seeds`.
    """
    plan, ranks = seed_plan(cfg, seeds, vary), current_ranks()
    _require_checkpoints(cfg, keep_checkpoints)
    require_divisible(plan.cfg, ranks)
    if cfg.output_path is None:
        raise ValueError(
            f"train_seeds was given no output_path, but the {ranks.size} ranks come together in a folder that all of them see. Give one."
        )
    folder = RunFolder(Path(cfg.output_path), plan, "train_seeds")
    if folder.is_trained(_STAGE):
        if keep_checkpoints and not folder.checkpoints(_STAGE).is_dir():
            raise ValueError(
                f"train_seeds was asked to keep the checkpoints of {folder.path}, but a run that did not keep them has finished there. Leave "
                "keep_checkpoints out to load its SAEs, or give another output_path to train again."
            )
    else:
        with one_voice(ranks):
            _train(plan, folder, ranks, override_model, override_dataset, keep_checkpoints)
    return [folder.path / member.name for member in plan.members]


def _train(
    plan: SeedPlan,
    folder: RunFolder,
    ranks: Ranks,
    override_model: Any,
    override_dataset: HfDataset | None,
    keep_checkpoints: bool,
) -> None:
    """Train what is left to train, and note that it is done."""
    names = [member.name for member in plan.members]
    start = ranks.tell.from_first(folder.latest_checkpoint(_STAGE, names), "finding the last checkpoint")
    if start is not None:
        tqdm.write(f"Going on from the checkpoint at {start.name} tokens.")
    plan.cfg.checkpoint_path = str(folder.checkpoints(_STAGE) / "run")
    plan.cfg.output_path = str(folder.path)
    runner = SeedsRunner(plan, override_model, override_dataset, start)
    ranks.tell.wait("checking what is to be trained")  # each has looked at its own SAEs
    with folder.working() if ranks.is_first else nullcontext():
        if ranks.tell.from_first(folder.is_trained(_STAGE), "finding what is trained"):
            return  # another process has just finished
        with runner.interrupt.watching():
            with folder.timed(_STAGE) if ranks.is_first else nullcontext():
                runner.train()
            if ranks.is_first:
                record = {"seconds": round(folder.training_seconds(_STAGE), 1), "resumed": start is not None}
                folder.mark_trained(_STAGE, record, keep_checkpoints=keep_checkpoints)
            ranks.tell.wait("noting that the SAEs are trained")


def _require_checkpoints(cfg: RunnerConfig, keep_checkpoints: bool) -> None:
    if not keep_checkpoints:
        return
    if cfg.output_path is None or (cfg.n_checkpoints == 0 and not cfg.save_final_checkpoint):
        raise ValueError(
            f"train_seeds was given keep_checkpoints, but none are written with n_checkpoints = {cfg.n_checkpoints} and output_path = "
            f"{cfg.output_path!r}. Set n_checkpoints to how many you want on the way, and an output_path."
        )
