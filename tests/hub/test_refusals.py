"""What is refused before anything is sent, and who may not write, against a stand-in of the hub's API."""

from pathlib import Path
from typing import Any

import pytest

from sae_lens_ext import (
    HubUploadError,
    KronTrainingSAE,
    KronTrainingSAEConfig,
    model_card,
    save_sae,
    upload_to_hub,
)
from tests.hub.stand_in import Repository, StandIn


def upload(saes: Any, repo_id: str = "me/saes", **options: Any) -> Any:
    return upload_to_hub(saes, repo_id, show_progress=False, **options)


def _checkpoint(saes: dict[str, Any], folder: Path) -> None:
    KronTrainingSAE(KronTrainingSAEConfig(d_in=8, d_sae=32, k=4, base_dim=2, extension_dim=2)).save_model(
        folder
    )


def _truncated(saes: dict[str, Any], folder: Path) -> None:
    weights, _ = save_sae(saes["base"], folder)
    weights.write_bytes(weights.read_bytes()[:200])


def _changed(saes: dict[str, Any], folder: Path) -> None:
    weights, _ = save_sae(saes["base"], folder)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))


def _bad_sparsity(saes: dict[str, Any], folder: Path) -> None:
    save_sae(saes["base"], folder)
    (folder / "sparsity.safetensors").write_bytes(b"x" * 20)


def _resumable(saes: dict[str, Any], folder: Path) -> None:
    save_sae(saes["base"], folder)
    (folder / "trainer_state.pt").write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_checkpoint, r"holds a checkpoint of training \('kron'\), which others cannot load"),
        (_resumable, r"holds a checkpoint of training \('topk'\)"),
        (_truncated, "is truncated or not a safetensors file"),
        (_changed, "holds other weights than were saved"),
        (_bad_sparsity, "cannot be read as the sparsity"),
        (lambda _saes, folder: folder.mkdir(), "it holds no cfg.json"),
        (lambda _saes, _folder: None, "there is no such folder"),
    ],
)
def test_what_is_not_whole_is_refused_before_the_hub_is_asked(
    hub: StandIn, saes: dict[str, Any], tmp_path: Path, spoil: Any, message: str
) -> None:
    spoil(saes, tmp_path / "bad")
    for call in (upload, model_card):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            call({"good": saes["base"], "bad": tmp_path / "bad"}, "me/saes")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({}, "me/saes"), "the mapping is empty"),
        ((5, "me/saes"), "saes of type int"),
        (({"a": 5}, "me/saes"), "was given int under the id 'a'"),
        (({"a": ""}, "saes"), "repo_id = 'saes'"),
        (({"a": ""}, "a/b/c"), "repo_id = 'a/b/c'"),
        (({"a": ""}, "me/sa es"), "which the hub does not allow"),
        (({"a": ""}, "me/saes.git"), "which the hub does not allow"),
        (({"a": ""}, None), "repo_id = None"),
        *(
            (({sae_id: ""}, "me/saes"), "which cannot be the name of an SAE's folder")
            for sae_id in ("", "..", "a/../b", "/a", "a/", "a b", ".git", "a\\b", "README.md", "-a", 3, "ä")
        ),
    ],
)
def test_wrong_names_are_refused_in_a_sentence(hub: StandIn, arguments: Any, message: str) -> None:
    for call in (upload, model_card):
        with pytest.raises(ValueError, match=message):
            call(*arguments)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"revision": "a b"}, "revision = 'a b'"),
        ({"revision": ""}, "revision = ''"),
        ({"private": "yes"}, "private = 'yes'"),
        ({"license": "M I T"}, "license = 'M I T'"),
        ({"install": "a\nb"}, "install = "),
        ({"existing": "overwrite"}, "existing = 'overwrite'"),
        ({"card": " "}, "card = ' '"),
        ({"card": "# Mine", "license": "mit"}, "together with a card"),
        ({"token": ""}, "a token of type str that is none"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(
    hub: StandIn, saes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        upload({"a": saes["base"]}, **options)
    assert hub.requests == []


def test_a_token_is_never_shown(hub: StandIn, saes: dict[str, Any]) -> None:
    with pytest.raises(HubUploadError) as caught:
        upload({"a": saes["base"]}, token="hf_secret")
    assert "hf_secret" not in str(caught.value) and "or it is not valid" in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"token": False}, "no token was given, or it is not valid .* Log in with `hf auth login`"),
        ({"token": "reader"}, "This token may not write to me/saes .* namespace 'me'"),
        ({"repo_id": "you/saes"}, "This token may not write to you/saes"),
    ],
)
def test_who_may_not_write_is_told_so(
    hub: StandIn, saes: dict[str, Any], setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(HubUploadError, match=message) as caught:
        upload({"a": saes["base"]}, **setting)
    assert "No SAE of this call was put there." in str(caught.value)
    assert hub.repositories == {}


def test_a_private_repository_of_others_is_not_taken_for_none(hub: StandIn, saes: dict[str, Any]) -> None:
    hub.repositories["me/saes"] = Repository(private=True)
    with pytest.raises(HubUploadError, match="This token may not write to me/saes"):
        upload({"a": saes["base"]}, token="reader")


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_a_repository_of_another_kind_is_named(hub: StandIn, saes: dict[str, Any], kind: str) -> None:
    hub.repositories[f"{kind}s/me/saes"] = Repository()
    with pytest.raises(HubUploadError, match=rf"me/saes is a {kind} .* Nothing was sent"):
        upload({"a": saes["base"]})
    assert hub.sent() == []
