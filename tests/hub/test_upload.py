"""What is put on the hub, against a stand-in of its API; that of the real hub is not reached by tests."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from sae_lens import SAE

from sae_lens_ext import (
    HubUploadError,
    ResidualTrainingSAE,
    ResidualTrainingSAEConfig,
    load_sae,
    model_card,
    save_sae,
    upload_to_hub,
    weights_fingerprint,
)
from tests.hub.saes import D_IN, same
from tests.hub.stand_in import Repository, StandIn

KINDS = ("base", "jumprelu", "nested", "kron", "boost/code", "stack")


def upload(saes: Any, repo_id: str = "me/saes", **options: Any) -> Any:
    return upload_to_hub(saes, repo_id, show_progress=False, **options)


def test_every_architecture_is_loaded_by_saelens_from_a_repository_it_has_never_heard_of(
    hub: StandIn, saes: dict[str, Any]
) -> None:
    done = upload(saes)
    assert done.uploaded == KINDS and done.card == "written" and done.others == ()
    for sae_id, sae in saes.items():
        loaded = SAE.from_pretrained("me/saes", sae_id)
        assert same(loaded, sae) and weights_fingerprint(loaded) == weights_fingerprint(sae)
        assert loaded.cfg.metadata.hook_name == sae.cfg.metadata.hook_name
    assert hub.files("me/saes")["README.md"].decode() == model_card(saes, "me/saes")
    assert hub.messages("me/saes") == [*(f"Upload SAE {sae_id}" for sae_id in KINDS), "Write the card"]


def test_bfloat16_stays_bfloat16(hub: StandIn, saes: dict[str, Any], tmp_path: Path) -> None:
    save_sae(saes["kron"], tmp_path / "kron")
    half = load_sae(tmp_path / "kron", dtype="bfloat16")
    upload({"half": half})
    loaded = SAE.from_pretrained("me/saes", "half", dtype="bfloat16")
    assert loaded.W_dec.dtype == torch.bfloat16 and torch.equal(loaded.W_dec, half.W_dec)


def test_a_folder_is_sent_byte_by_byte_and_left_as_it_was(
    hub: StandIn, saes: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "k_4"
    save_sae(saes["base"], folder)
    (folder / "runner_cfg.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert upload(folder).uploaded == ("k_4",)
    sent = {path.removeprefix("k_4/"): content for path, content in hub.files("me/saes").items()}
    del sent["README.md"], before["notes.txt"]
    assert sent == before
    assert (folder / "notes.txt").exists()


def test_an_sae_in_training_is_sent_in_its_inference_form(hub: StandIn, saes: dict[str, Any]) -> None:
    residual = ResidualTrainingSAE(ResidualTrainingSAEConfig(d_in=D_IN, d_sae=16, k=2), base=saes["base"])
    upload({"r": residual})
    assert json.loads(hub.files("me/saes")["r/cfg.json"])["architecture"] == "jumprelu"
    assert SAE.from_pretrained("me/saes", "r").cfg.d_sae == 16


def test_one_sae_alone_is_called_by_its_hook(hub: StandIn, saes: dict[str, Any]) -> None:
    assert upload(saes["base"]).uploaded == ("blocks.1.hook_resid_post",)


def test_what_is_there_is_not_sent_again(hub: StandIn, saes: dict[str, Any]) -> None:
    upload(saes)
    before = hub.sent()
    done = upload(saes)
    assert done.unchanged == KINDS and done.uploaded == () and done.card == "unchanged"
    assert hub.sent() == before


def test_something_else_under_a_name_is_refused_before_anything_is_sent(
    hub: StandIn, saes: dict[str, Any]
) -> None:
    upload({"a": saes["base"]})
    before, sent = hub.files("me/saes"), hub.sent()
    with pytest.raises(
        FileExistsError,
        match=r"me/saes holds something else already, on its branch main, under 'a', 'README.md'\. Nothing was sent\.",
    ):
        upload({"new": saes["kron"], "a": saes["jumprelu"]})
    assert hub.files("me/saes") == before and hub.sent() == sent


def test_a_card_of_others_is_never_overwritten_silently(hub: StandIn, saes: dict[str, Any]) -> None:
    hub.repositories["me/saes"] = Repository()
    hub.repositories["me/saes"].commit("main", "mine", {"README.md": b"# written by hand"})
    with pytest.raises(FileExistsError, match=r"under 'README\.md'"):
        upload({"a": saes["base"]})
    done = upload({"a": saes["base"]}, existing="keep")
    assert done.card == "kept" and done.uploaded == ("a",)
    assert hub.files("me/saes")["README.md"] == b"# written by hand"
    assert upload({"a": saes["base"]}, existing="replace").card == "written"
    assert b"SAE.from_pretrained" in hub.files("me/saes")["README.md"]
    assert hub.repositories["me/saes"].branches["main"][1].files["README.md"] == b"# written by hand"


def test_keep_sends_only_what_is_missing(hub: StandIn, saes: dict[str, Any]) -> None:
    upload({"a": saes["base"]})
    done = upload({"a": saes["jumprelu"], "b": saes["kron"]}, existing="keep")
    assert (done.uploaded, done.kept, done.card) == (("b",), ("a",), "kept")
    assert same(SAE.from_pretrained("me/saes", "a"), saes["base"])


def test_replace_takes_away_what_the_sae_before_would_have_left(
    hub: StandIn, saes: dict[str, Any], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    save_sae(saes["base"], tmp_path / "a")
    save_file({"sparsity": torch.zeros(32)}, tmp_path / "a" / "sparsity.safetensors")
    upload({"a": tmp_path / "a", "b": saes["kron"]})
    assert "a/sparsity.safetensors" in hub.files("me/saes")
    done = upload({"a": saes["jumprelu"]}, existing="replace")
    assert "a/sparsity.safetensors" not in hub.files("me/saes")
    assert done.others == ("b",) and same(SAE.from_pretrained("me/saes", "b"), saes["kron"])


def test_a_branch_is_made_and_main_stays_as_it_was(hub: StandIn, saes: dict[str, Any]) -> None:
    upload({"a": saes["base"]})
    before = hub.files("me/saes")
    done = upload({"a": saes["kron"]}, revision="v2", existing="replace")
    assert done.url == f"{hub.endpoint}/me/saes/tree/v2" and hub.files("me/saes") == before
    card = hub.files("me/saes", "v2")["README.md"].decode()
    namespace: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], namespace)
    assert same(namespace["sae"], saes["kron"])


def test_private_is_made_so_and_never_changed(hub: StandIn, saes: dict[str, Any]) -> None:
    upload({"a": saes["base"]}, private=True)
    assert hub.repositories["me/saes"].private
    hub.repositories["me/public"] = Repository()
    with pytest.raises(
        ValueError, match=r"private = True, but me/public exists and is public.*Nothing was sent"
    ):
        upload({"a": saes["base"]}, "me/public", private=True)
    assert hub.files("me/public") == {}


def test_a_card_of_the_users_own(hub: StandIn, saes: dict[str, Any]) -> None:
    upload({"a": saes["base"]}, card="---\nlicense: mit\n---\n# Mine\n")
    assert hub.files("me/saes")["README.md"] == b"---\nlicense: mit\n---\n# Mine\n"


@pytest.mark.parametrize("card", ["---\nlicense: [\n---\n", "---\nlicense: none-of-theirs\n---\n"])
def test_a_card_that_the_hub_would_not_take_is_refused_first(
    hub: StandIn, saes: dict[str, Any], card: str
) -> None:
    with pytest.raises(HubUploadError, match=r"at the top of the card are not accepted.*Nothing was sent"):
        upload({"a": saes["base"]}, card=card)
    assert hub.sent() == [] and hub.repositories == {}


def test_without_a_network_nothing_is_lost(
    hub: StandIn, saes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUploadError, match="The hub cannot be reached, or the connection broke"):
        upload({"a": saes["base"]})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUploadError, match="HF_HUB_OFFLINE is set. Unset it to upload"):
        upload({"a": saes["base"]})


@pytest.mark.parametrize(("status", "said"), [(0, "connection broke"), (503, "in trouble: it answered 503")])
@pytest.mark.parametrize("where", ["_large", "commit"])
def test_an_upload_that_is_cut_off_says_what_is_there_and_goes_on(
    hub: StandIn, saes: dict[str, Any], status: int, said: str, where: str
) -> None:
    three = {name: saes[name] for name in ("base", "kron", "stack")}

    def trouble(_method: str, path: str) -> int | None:
        return status if where in path and len(hub.messages("me/saes")) == 1 else None

    hub.trouble = trouble
    with pytest.raises(HubUploadError, match=said) as caught:
        upload(three)
    assert caught.value.uploaded == ("base",)
    assert "There by now, each whole: base. Not there, or not confirmed: kron, stack, README.md." in str(
        caught.value
    )
    assert sorted(hub.files("me/saes")) == ["base/cfg.json", "base/sae_weights.safetensors"]
    hub.trouble = lambda _method, _path: None
    done = upload(three)
    assert done.unchanged == ("base",) and done.uploaded == ("kron", "stack") and done.card == "written"
    for name, sae in three.items():
        assert same(SAE.from_pretrained("me/saes", name), sae)


def test_an_interruption_says_what_is_there(
    hub: StandIn, saes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    real = HfApi.create_commit

    def create_commit(self: Any, repo_id: str, operations: Any, **options: Any) -> Any:
        if "kron" in options["commit_message"]:
            raise KeyboardInterrupt
        return real(self, repo_id, operations, **options)

    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    with pytest.raises(KeyboardInterrupt, match=r"was interrupted\. There by now, each whole: base\."):
        upload({"base": saes["base"], "kron": saes["kron"]})


def test_what_somebody_else_commits_meanwhile_is_not_overwritten(hub: StandIn, saes: dict[str, Any]) -> None:
    upload({"a": saes["base"]})

    def meanwhile(_method: str, path: str) -> None:
        repository = hub.repositories["me/saes"]
        if path.endswith("/preupload/main") and repository.branches["main"][-1].message != "theirs":
            repository.commit(
                "main", "theirs", {**repository.branches["main"][-1].files, "a/cfg.json": b"theirs"}
            )

    hub.trouble = meanwhile
    with pytest.raises(HubUploadError, match="Somebody else has changed me/saes meanwhile"):
        upload({"a": saes["jumprelu"]}, existing="replace")
    assert hub.files("me/saes")["a/cfg.json"] == b"theirs"


def test_one_sae_is_the_same_bytes_whenever_it_is_saved(hub: StandIn, saes: dict[str, Any]) -> None:
    for number in range(4):  # the order of a safetensors file's notes is drawn anew at each save
        upload({"a": saes["base"]}, f"me/saes_{number}")
    contents = {hub.files(f"me/saes_{number}")["a/sae_weights.safetensors"] for number in range(4)}
    assert len(contents) == 1


def test_the_result_is_three_lines(hub: StandIn, saes: dict[str, Any]) -> None:
    lines = repr(upload({"a": saes["base"]})).splitlines()
    assert lines[0] == f"HubUpload to {hub.endpoint}/me/saes" and len(lines) == 3


def test_bars_of_the_client_come_back(hub: StandIn, saes: dict[str, Any]) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled

    before = are_progress_bars_disabled()
    upload({"a": saes["base"]})
    assert are_progress_bars_disabled() == before


def test_the_downloaded_folder_is_whole_by_our_own_check(
    hub: StandIn, saes: dict[str, Any], tmp_path: Path
) -> None:
    upload({"a": saes["stack"]})
    for name in ("cfg.json", "sae_weights.safetensors"):
        (tmp_path / name).write_bytes(hub.files("me/saes")[f"a/{name}"])
    assert same(load_sae(tmp_path), saes["stack"])
    shutil.rmtree(tmp_path)
