"""The card: what it says of each SAE, and that its lines run."""

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from sae_lens import SAE, TopKSAE, TopKSAEConfig

from sae_lens_ext import (
    HierarchicalTopKTrainingSAE,
    HierarchicalTopKTrainingSAEConfig,
    ResidualStackSAE,
    cite,
    model_card,
    save_sae,
    upload_to_hub,
    weights_fingerprint,
    with_k,
)
from tests.hub.saes import D_IN, D_SAE, same
from tests.hub.stand_in import StandIn


def front_matter(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def blocks(card: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)


def rows(card: str) -> list[dict[str, str]]:
    lines = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], (c.strip("`") for c in line), strict=True)) for line in lines[2:]]


def tiny(**metadata: Any) -> TopKSAE:
    sae = TopKSAE(TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=4))
    for name, value in metadata.items():
        sae.cfg.metadata[name] = value
    return sae


@pytest.mark.parametrize("revision", [None, "v2"])
def test_every_block_of_the_card_runs_by_itself(
    hub: StandIn, saes: dict[str, Any], revision: str | None
) -> None:
    upload_to_hub(saes, "me/saes", revision=revision, show_progress=False)
    card = hub.files("me/saes", revision or "main")["README.md"].decode()
    made: list[dict[str, Any]] = []
    for block in blocks(card):
        made.append({})
        exec(block, made[-1])
    assert len(made) == 5
    assert same(made[0]["sae"], saes["base"]) and same(made[1]["sae"], saes["kron"])
    assert made[2]["sparser"].cfg.k == 2 and same(made[2]["sae"], saes["nested"])
    assert isinstance(made[3]["stack"], ResidualStackSAE) and same(made[3]["base"], saes["base"])
    assert made[4]["stack"].active == ("code",)


def test_the_table_says_what_each_sae_is(saes: dict[str, Any]) -> None:
    table = {row["id"]: row for row in rows(model_card(saes, "me/saes"))}
    assert list(table) == list(saes)
    assert {name: row["k"] for name, row in table.items()} == {
        "base": "4",
        "jumprelu": "",
        "nested": "4",
        "kron": "4",
        "boost/code": "2 on average",
        "stack": "4 of the base",
    }
    assert table["nested"]["architecture"] == "topk" and table["nested"]["trained as"] == "hierarchical_topk"
    assert table["kron"]["hook"] == "blocks.1.hook_resid_post"
    assert (table["stack"]["d_in"], table["stack"]["d_sae"], table["stack"]["dtype"]) == (
        "8",
        "48",
        "float32",
    )
    assert table["jumprelu"]["parameters"] == str(2 * D_IN * D_SAE + 2 * D_SAE + D_IN)
    for name, sae in saes.items():
        assert weights_fingerprint(sae).startswith(table[name]["fingerprint"])


def test_this_package_is_asked_for_only_where_it_is_needed(saes: dict[str, Any]) -> None:
    plain = model_card({"base": saes["base"], "jumprelu": saes["jumprelu"]}, "me/saes")
    assert "import sae_lens_ext" not in plain and blocks(plain, "bash") == [] and "## Citing" not in plain
    card = model_card({"kron": saes["kron"]}, "me/saes", install="pip install git+https://example.org/it")
    assert blocks(card, "bash") == ["pip install git+https://example.org/it\n"]
    assert blocks(card)[0].startswith("import sae_lens_ext")
    assert "With SAELens alone" not in card


def test_front_matter(saes: dict[str, Any]) -> None:
    assert front_matter(model_card(saes, "me/saes", license="mit")) == {
        "library_name": "saelens",
        "license": "mit",
        "base_model": ["EleutherAI/pythia-70m"],
        "tags": [
            "sparse-autoencoder", "saelens", "mechanistic-interpretability", "topk", "jumprelu", "hierarchical-topk", "kron",
            "residual", "residual-stack",
        ],
    }  # fmt: skip
    assert "license" not in front_matter(model_card(saes, "me/saes"))


@pytest.mark.parametrize("name", ["gpt2-small", "models/here", "../x", "/models/there", "a/b/c", None, 5])
def test_base_model_is_named_only_if_it_can_be_one_of_the_hubs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models/here").mkdir(parents=True)
    assert "base_model" not in front_matter(model_card(tiny(model_name=name), "me/saes"))


def test_architectures_of_ours_are_described_and_cited_once(saes: dict[str, Any]) -> None:
    card = model_card(saes, "me/saes")
    entries = [entry.strip() for entry in blocks(card, "bibtex")]
    assert entries == [cite("hierarchical_topk"), cite("kron"), cite("residual")]
    assert "- `kron`: Latents are pairs" in card


@pytest.mark.parametrize(
    ("budgets", "k", "words", "smaller"),
    [
        ("all", 4, "every number of latents per token from 1 to 4", 2),
        ((1, 2, 4), 4, "1, 2 and 4 latents per token", 2),
        ((4,), 4, "4 latents per token", 4),
        ((2, 8), 2, "2 latents per token", 2),
    ],
)
def test_budgets_are_those_that_were_trained(budgets: Any, k: int, words: str, smaller: int) -> None:
    from sae_lens_ext.architectures.inference import as_inference

    trained_k = budgets[-1] if isinstance(budgets, tuple) else 4
    cfg = HierarchicalTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=trained_k, budgets=budgets)
    sae = with_k(as_inference(HierarchicalTopKTrainingSAE(cfg)), k)
    card = model_card({"a": sae}, "me/saes")
    assert f"It was trained at once for {words}: " in card and f"with_k(sae, {smaller})" in card
    assert (f"| `{k} (trained with {trained_k})` |" in card) == (k != trained_k)


def test_a_residual_without_its_base_says_which_base_it_needs(saes: dict[str, Any]) -> None:
    card = model_card({"r": saes["boost/code"]}, "me/saes")
    assert weights_fingerprint(saes["base"]) in card and "is not in this repository" in card
    assert 'base = SAE.load_from_disk("path/to/the/base")' in card


def test_a_residual_on_a_released_base_names_the_release(saes: dict[str, Any], tmp_path: Path) -> None:
    save_sae(saes["boost/code"], tmp_path / "r")
    sae = SAE.load_from_disk(tmp_path / "r")
    sae.cfg.metadata.training_architecture_details["base_release"] = "gpt2-small-res-jb"
    sae.cfg.metadata.training_architecture_details["base_sae_id"] = "blocks.8.hook_resid_pre"
    card = model_card({"r": sae}, "me/saes")
    assert 'base = SAE.from_pretrained("gpt2-small-res-jb", "blocks.8.hook_resid_pre")' in card


def test_text_in_metadata_is_no_markup(saes: dict[str, Any]) -> None:
    card = model_card({"a": tiny(hook_name="a|b`c\n# d", model_name="```\n<b>")}, "me/saes")
    assert "`a\\|b'c # d`" in card and "\n# d" not in card and "`''' <b>`" in card
    stack = saes["stack"].with_active(())
    stack.cfg.domains = ['x"```\n']
    block = blocks(model_card({"a": stack}, "me/saes"))[-1]
    compile(block, "card", "exec")
    assert '"x\\"\\u0060\\u0060\\u0060\\n"' in block


def test_an_sae_of_another_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(TopKSAE):
        pass

    Other.__module__ = "other_package.saes"
    monkeypatch.setitem(sys.modules, "other_package.saes", types.ModuleType("other_package.saes"))
    card = model_card({"a": Other(TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=4))}, "me/saes")
    assert "With the package `other_package`" in card and "import other_package" in blocks(card)[0]


def test_half_precision_says_how_to_keep_it(saes: dict[str, Any], tmp_path: Path) -> None:
    sae = TopKSAE(TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=4, dtype="bfloat16"))
    assert '`dtype="bfloat16"` keeps' in model_card({"a": sae}, "me/saes")
    assert "dtype=" not in model_card(saes, "me/saes")


def test_a_folder_and_the_sae_in_it_have_one_card(saes: dict[str, Any], tmp_path: Path) -> None:
    for name, sae in saes.items():
        save_sae(sae, tmp_path / name)
    assert model_card({name: tmp_path / name for name in saes}, "me/saes") == model_card(saes, "me/saes")
    assert model_card(str(tmp_path / "kron"), "me/saes") == model_card({"kron": saes["kron"]}, "me/saes")
