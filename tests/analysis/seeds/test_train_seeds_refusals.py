"""What `train_seeds` refuses once it knows the model and the SAEs, before anything is written."""

from pathlib import Path

import pytest
import torch
from sae_lens import TopKTrainingSAE

from .tiny import BATCH, CONTEXT, EVERY_VARY, single, topk


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"hook_name": "blocks.7.hook_resid_post"},
            r"^The model HookedSAETransformer has no hook 'blocks\.7\.hook_resid_post'\. Did you mean",
        ),
        (
            {"hook_name": "blocks.0.hook_out"},
            r"^The model HookedSAETransformer has a hook that goes by the name 'blocks\.0\.hook_out' in another class of model\. Give the "
            r"name that is in model\.hook_dict\.$",
        ),
        (
            {"sae": topk(d_in=24)},
            r"^The activations at 'blocks\.0\.hook_resid_post' have width 16, but the SAE has d_in = 24\. Set d_in to that width\.$",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_anything_is_written(
    train, tmp_path: Path, change: dict, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        train(single(tmp_path / "out", **change), range(2))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("vary", EVERY_VARY)
def test_an_architecture_with_a_deterministic_initialisation_is_refused(
    train, monkeypatch, tmp_path: Path, vary: str
) -> None:
    draw = TopKTrainingSAE.initialize_weights

    def always_the_same(sae: TopKTrainingSAE) -> None:
        torch.manual_seed(0)
        draw(sae)

    monkeypatch.setattr(TopKTrainingSAE, "initialize_weights", always_the_same)
    if vary == "data_order":  # where equal initial weights are meant
        assert len(train(single(tmp_path / "out"), [3, 5, 8], vary=vary)) == 3
        return
    with pytest.raises(
        ValueError,
        match="^The architecture 'topk' draws the same initial weights from the seeds 3 and 5, so that anything would look stable. Give it "
        'an initialisation that is random, or vary = "data_order".$',
    ):
        train(single(tmp_path / "out"), [3, 5, 8], vary=vary)
    assert not (tmp_path / "out").exists()


def test_a_buffer_of_one_batch_has_no_orders(train, tmp_path: Path) -> None:
    cfg = single(tmp_path / "out", n_batches_in_buffer=2 * BATCH // CONTEXT - 1)
    with pytest.raises(
        ValueError,
        match=r"^train_seeds was given vary = 'data_order', but the buffer, n_batches_in_buffer = 7 contexts, holds 112 rows, less than two "
        r"batches of 64, so that all seeds would see the same batches\. Give at least n_batches_in_buffer = 8, better ten times as "
        r"many\.$",
    ):
        train(cfg, range(2), vary="data_order")
    assert not (tmp_path / "out").exists()
    assert len(train(cfg, range(2))) == 2
    enough = single(tmp_path / "enough", n_batches_in_buffer=8)
    assert len(train(enough, range(2), vary="data_order")) == 2


@pytest.mark.parametrize(("output", "n_checkpoints"), [("out", 0), (None, 3)])
def test_checkpoints_that_are_not_written_cannot_be_kept(train, tmp_path, output, n_checkpoints) -> None:
    path = None if output is None else tmp_path / output
    with pytest.raises(ValueError) as refusal:
        train(single(path, n_checkpoints=n_checkpoints), range(2), keep_checkpoints=True)
    assert str(refusal.value) == (
        f"train_seeds was given keep_checkpoints, but none are written with n_checkpoints = {n_checkpoints} and output_path = "
        f"{None if path is None else str(path)!r}. Set n_checkpoints to how many you want on the way, and an output_path."
    )


def test_checkpoints_that_a_finished_run_did_not_keep_are_not_to_be_had(train, tmp_path) -> None:
    cfg = single(tmp_path / "out", n_checkpoints=1)
    train(cfg, range(2))
    with pytest.raises(ValueError, match="a run that did not keep them has finished there"):
        train(cfg, range(2), keep_checkpoints=True)
    assert len(train(cfg, range(2))) == 2  # what is there is loaded as before
