"""TopActivations as a table, a figure, a file and what a notebook shows."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lens_ext.analysis.flow.top_activations import TopActivations, top_activations
from tests.analysis.flow.top_activations.tiny import MLP, RESIDUAL, documents, random_saes

HOOKS = (MLP[1], RESIDUAL[1])


@pytest.fixture
def found(hooked_model: Any) -> TopActivations:
    return top_activations(
        hooked_model,
        random_saes(HOOKS),
        {"a": documents(4)},
        features={MLP[1]: [3, 5], RESIDUAL[1]: [0]},
        context_size=12,
        window=5,
        show_progress=False,
    )


def test_what_is_saved_is_read_again_whole(found: TopActivations, tmp_path: Path) -> None:
    found.save(tmp_path / "top.json")
    again = TopActivations.load(tmp_path / "top.json")

    assert again.hooks == found.hooks
    assert again.provenance == found.provenance
    for name in found.hooks:
        for index in found.sites[name].features.tolist():
            assert again.contexts(name, index) == found.contexts(name, index)
            assert again.tokens(name, index) == found.tokens(name, index)
            assert again.firing_rate(name, index) == found.firing_rate(name, index)


def test_a_file_without_its_tensors_is_refused(found: TopActivations, tmp_path: Path) -> None:
    found.save(tmp_path / "top.json")
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(ValueError, match="search again with top_activations"):
        TopActivations.load(tmp_path / "top.json")


def test_the_table_has_a_row_for_each_feature(found: TopActivations) -> None:
    frame = found.to_frame(2)

    assert list(frame.columns) == ["hook", "index", "firing_rate", "max_activation", "tokens"]
    rows = {(row.hook, row.index): row for row in frame.itertuples()}
    assert len(rows) == 3
    strongest = rows[RESIDUAL[1], 0]
    assert strongest.tokens == tuple(token for token, _ in found.tokens(RESIDUAL[1], 0, 2))
    assert strongest.firing_rate == found.firing_rate(RESIDUAL[1], 0)
    assert rows[MLP[1], 3].tokens == ()


def test_a_feature_that_was_not_looked_at_is_named(found: TopActivations) -> None:
    with pytest.raises(ValueError, match=r"feature 4 of 'blocks\.1\.hook_mlp_out' was not looked at"):
        found.tokens("blocks.1.mlp.hook_out", 4)
    with pytest.raises(ValueError, match=r"No features of 'blocks\.0\.hook_mlp_out' were looked at"):
        found.firing_rate(MLP[0], 5)


def test_it_shows_itself(found: TopActivations) -> None:
    assert len(repr(found).splitlines()) == 3
    assert "3 features at 2 hooks" in repr(found)
    assert "1 features never fired" in repr(found)
    assert "<table" in found._repr_html_()
    figure = found.plot()
    assert [trace.type for trace in figure.data] == ["box", "box"]
    assert "50% never fire" in figure.data[1].name


def test_provenance_says_what_was_read(found: TopActivations) -> None:
    assert found.provenance["hook_names"] == list(found.hooks)
    assert found.provenance["seed"] == 0
    assert set(found.provenance["tokens_sha256"]) == {"a"}
    assert torch.equal(found.contexts_read[:, 0], torch.zeros(len(found.contexts_read), dtype=torch.int32))
