"""What is HierarchicalTopK's own: the loss over budgets, and that it leaves an ordinary TopK behind."""

import subprocess
import sys

import pytest
import torch
from sae_lens import SAE, TopKSAE, TopKTrainingSAE, TopKTrainingSAEConfig

from sae_lens_ext import HierarchicalTopKTrainingSAE, HierarchicalTopKTrainingSAEConfig
from tests.contract.synthetic import step_input

SIZE = {"d_in": 8, "d_sae": 32, "k": 4}


def make(**fields) -> HierarchicalTopKTrainingSAE:
    return HierarchicalTopKTrainingSAE(HierarchicalTopKTrainingSAEConfig(**{**SIZE, **fields}))


def test_HierarchicalTopKTrainingSAE_with_one_budget_is_topk() -> None:
    ours = make(budgets=(4,))
    theirs = TopKTrainingSAE(TopKTrainingSAEConfig(**SIZE))
    theirs.load_state_dict(ours.state_dict())
    x, dead = torch.randn(20, 8), torch.arange(32) % 3 == 0
    outputs = [sae.training_forward_pass(step_input(x, dead=dead)) for sae in (ours, theirs)]
    for name in ("mse_loss", "auxiliary_reconstruction_loss"):
        torch.testing.assert_close(outputs[0].losses[name], outputs[1].losses[name])
    torch.testing.assert_close(outputs[0].sae_out, outputs[1].sae_out)
    torch.testing.assert_close(outputs[0].feature_acts.to_dense(), outputs[1].feature_acts)
    for output in outputs:
        output.loss.backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("rescale", [True, False])
def test_HierarchicalTopKTrainingSAE_mse_is_the_mean_of_topks_over_the_budgets(rescale: bool) -> None:
    ours = make(budgets=(1, 3, 4), rescale_acts_by_decoder_norm=rescale)
    with torch.no_grad():
        ours.W_dec.mul_(torch.rand(32, 1) + 0.5)
        ours.b_enc.normal_()
        ours.b_dec.normal_()
    x = torch.randn(20, 8)
    expected = []
    for k in (1, 3, 4):
        topk = TopKTrainingSAE(
            TopKTrainingSAEConfig(**{**SIZE, "k": k}, rescale_acts_by_decoder_norm=rescale)
        )
        topk.load_state_dict(ours.state_dict())
        expected.append(topk.training_forward_pass(step_input(x)).losses["mse_loss"])
    output = ours.training_forward_pass(step_input(x))
    torch.testing.assert_close(output.losses["mse_loss"], torch.stack(expected).mean())
    torch.testing.assert_close(output.metrics["mse_loss_full_budget"](), expected[-1])


def test_HierarchicalTopKTrainingSAE_all_budgets_is_the_default() -> None:
    assert make().cfg.levels == (1, 2, 3, 4)
    assert make(budgets=[1, 2]).cfg.budgets == (1, 2)


def test_HierarchicalTopKTrainingSAE_keeps_no_latent_beyond_its_largest_budget(tmp_path) -> None:
    sae, x = make(budgets=(1, 2)), torch.randn(10, 8)
    assert (sae.encode(x) != 0).sum(-1).max() <= 2 and sae.encode_sparse(x)[0].shape == (10, 4)
    sae.save_inference_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    assert loaded.cfg.k == 2
    torch.testing.assert_close(loaded(x), sae(x))


def test_HierarchicalTopKTrainingSAEConfig_from_dict_refuses_what_it_does_not_know() -> None:
    fields = make().cfg.to_dict()
    assert HierarchicalTopKTrainingSAEConfig.from_dict(fields).budgets == "all"
    with pytest.raises(ValueError, match="has no field 'budgetz'. Did you mean 'budgets'"):
        HierarchicalTopKTrainingSAEConfig.from_dict({**fields, "budgetz": [1]})


def test_HierarchicalTopKTrainingSAE_ranks_by_value() -> None:
    values, indices = make().encode_sparse(torch.randn(3, 5, 8))
    assert values.shape == (3, 5, 4) and (values.diff(dim=-1) <= 0).all() and indices.max() < 32


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # SAELens' TopK, torch 2.13
def test_HierarchicalTopKTrainingSAE_trains_with_sparse_activations() -> None:
    dense, sparse = make(), make(use_sparse_activations=True)
    sparse.load_state_dict(dense.state_dict())
    x = torch.randn(20, 8)
    outputs = [sae.training_forward_pass(step_input(x)) for sae in (dense, sparse)]
    assert outputs[1].feature_acts.is_sparse
    torch.testing.assert_close(outputs[1].loss, outputs[0].loss)
    for output in outputs:
        output.loss.backward()
    torch.testing.assert_close(sparse.W_enc.grad, dense.W_enc.grad)


def test_HierarchicalTopKTrainingSAE_is_loaded_by_a_process_without_this_package(tmp_path) -> None:
    sae, x = make(), torch.randn(6, 8)
    sae.save_inference_model(tmp_path / "sae")
    assert type(SAE.load_from_disk(tmp_path / "sae")) is TopKSAE
    torch.save(x, tmp_path / "x.pt")
    script = (
        "import sys, torch\n"
        "from sae_lens import SAE\n"
        f"sae = SAE.load_from_disk({str(tmp_path / 'sae')!r})\n"
        f"torch.save(sae(torch.load({str(tmp_path / 'x.pt')!r})), {str(tmp_path / 'y.pt')!r})\n"
        "assert not any(name.startswith('sae_lens_ext') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, cwd=tmp_path)
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), sae(x))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"budgets": ()}, r"budgets = \(\) names no budgets. Give \"all\""),
        ({"budgets": "some"}, r"budgets = 'some' names no budgets"),
        ({"budgets": 4}, r"budgets = 4 names no budgets"),
        ({"budgets": (0, 4)}, r"holds 0, which is outside 1..k"),
        ({"budgets": (-1, 4)}, r"holds -1, which is outside 1..k"),
        ({"budgets": (1, 5)}, r"holds 5, which is outside 1..k.*from 1 to k = 4"),
        ({"budgets": (2, 1)}, r"is unsorted or repeats a budget"),
        ({"budgets": (2, 2)}, r"is unsorted or repeats a budget"),
        ({"budgets": (1.5, 2)}, r"holds 1.5, not a whole number"),
        ({"k": 0}, r"k = 0 is out of range"),
        ({"k": 33}, r"k = 33 is out of range. Give an int between 1 and d_sae = 32"),
        ({"normalize_activations": "layer_norm"}, r"'layer_norm' is not supported"),
    ],
)
def test_HierarchicalTopKTrainingSAEConfig_refuses(fields: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make(**fields)


def test_HierarchicalTopKTrainingSAEConfig_leaves_the_users_list_alone() -> None:
    budgets = [1, 2, 4]
    cfg = HierarchicalTopKTrainingSAEConfig(**SIZE, budgets=budgets)  # type: ignore[arg-type]
    assert budgets == [1, 2, 4] and cfg.budgets == (1, 2, 4)
