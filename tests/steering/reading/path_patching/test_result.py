from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lens_ext.steering.reading.path_patching import PathPatching, path_patching


@pytest.fixture
def found(llama_hooked: Any, tokens: torch.Tensor, vector: torch.Tensor) -> PathPatching:
    return path_patching(llama_hooked, vector, tokens[:, :8], heads="all", n_resamples=20)


@pytest.fixture
def rewarded(llama_hooked: Any, vector: torch.Tensor) -> PathPatching:
    return path_patching(
        llama_hooked,
        vector,
        modes=["full", "base", "only:q:0", "vanilla:q:0"],
        prompts=["w1", "w2"],
        reward=lambda prompt, completion: "w3" in completion,
        samples_per_prompt=2,
        max_new_tokens=2,
        n_resamples=20,
    )


def test_saving_and_loading_gives_the_same(found: PathPatching, rewarded: PathPatching, tmp_path: Path):
    for result in (found, rewarded):
        result.save(tmp_path / "paths.json")
        again = PathPatching.load(tmp_path / "paths.json")
        assert again == result
        assert again.provenance == result.provenance


def test_a_file_that_is_none_is_refused(tmp_path: Path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match="not a PathPatching.*measure again with path_patching"):
        PathPatching.load(tmp_path / "x.json")


def test_the_repr_has_three_lines_and_a_notebook_a_table(found: PathPatching, rewarded: PathPatching):
    lines = repr(found).splitlines()
    assert len(lines) == 3
    assert "enters block 2, 20 modes against full, 28 tokens of 4 sequences" in lines[0]
    assert "full keeps 100%; skip_attn keeps" in lines[1]
    assert "only:q" not in lines[1]
    assert len(repr(rewarded).splitlines()) == 3
    assert "reward" in repr(rewarded)
    html = found._repr_html_()
    assert "<table" in html and "effect_kept" in html and "<th>reward</th>" not in html


def test_a_mode_that_was_not_measured_is_refused(rewarded: PathPatching):
    with pytest.raises(
        ValueError,
        match="'skip_attn' was not measured. There are full, base, vanilla:q:0, only:q:0|only:q:0, vanilla",
    ):
        rewarded.at("skip_attn")


def test_the_frame_has_a_row_for_each_mode(found: PathPatching):
    frame = found.to_frame()
    assert len(frame) == 20
    row = frame[frame["mode"] == "vanilla:k:1"].iloc[0]
    assert (row["kind"], row["part"], row["head"]) == ("vanilla", "k", 1)
    assert row["effect_kept"] == found.at("vanilla:k:1").effect_kept.value
    assert frame["reward"].isna().all()


def test_bars_are_of_the_whole_block_and_maps_of_heads(found: PathPatching, rewarded: PathPatching):
    bars = found.plot()
    assert [list(trace.x) for trace in bars.data] == [["full", "skip_attn", "skip_layer", "base"]] * 2
    assert bars.data[0].y[0] == pytest.approx(1)
    maps = found.plot_heads()
    lost, won = maps.data
    assert (len(lost.z), len(lost.z[0])) == (3, 4)
    assert lost.z[0][3] == pytest.approx(1 - found.at("vanilla:q:3").effect_kept.value)
    assert lost.z[1][2] is None and lost.z[2][3] is None  # two key-value heads only
    kept = found.at("only:v:1").effect_kept.value - found.at("skip_attn").effect_kept.value
    assert won.z[2][1] == pytest.approx(kept)
    assert len(rewarded.plot().data) == 1
    assert rewarded.plot_heads().data[0].z[0][0] == rewarded.at("vanilla:q:0").reward.value


def test_without_single_heads_there_is_no_map(llama_hooked: Any, tokens: torch.Tensor, vector: torch.Tensor):
    whole = path_patching(llama_hooked, vector, tokens[:2, :4], n_resamples=5)
    with pytest.raises(ValueError, match='heads="all"'):
        whole.plot_heads()
    single = path_patching(llama_hooked, vector, tokens[:2, :4], modes=["only:q:0"], n_resamples=5)
    assert single.plot().data[0].type == "heatmap"
    assert single.plot().data[0].z[0][0] == single.at("only:q:0").effect_kept.value
