"""Publishing SAEs on the Hugging Face hub, so that `SAE.from_pretrained` loads them and their card says how.

SAELens' own `upload_saes_to_huggingface` sends the same files to the same places, and is not called here: it takes no token and makes no private repository,
saves an SAE in training in a form that `SAE.from_pretrained` cannot load, asks for nothing but the names of the files before it begins, and may send an SAE in
several commits, so that one whose upload was interrupted is there by half. Here each SAE is one commit on the commit that was looked at before.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from sae_lens import SAE
from tqdm.auto import tqdm

from sae_lens_ext.hub.card import INSTALL, card_of, require_words
from sae_lens_ext.hub.errors import HubUploadError, in_sentences, is_of_network
from sae_lens_ext.hub.material import Material, gathered
from sae_lens_ext.hub.names import CARD_FILE, MAIN, by_id, require_repo_id, require_revision
from sae_lens_ext.hub.remote import Remote, look

Existing = Literal["refuse", "keep", "replace"]
_CALLER = "upload_to_hub"


@dataclass(frozen=True)
class HubUpload:
    """What an upload has done."""

    repo_id: str
    """The repository."""
    revision: str
    """The branch."""
    url: str
    """Its page."""
    commit: str | None
    """The last commit of the branch now."""
    uploaded: tuple[str, ...]
    """Ids of the SAEs that were sent."""
    unchanged: tuple[str, ...]
    """Those that were there already, to the byte."""
    kept: tuple[str, ...]
    """Those that were not sent, because something else is there under their id and `existing="keep"` was given."""
    card: Literal["written", "unchanged", "kept"]
    """What became of README.md."""
    others: tuple[str, ...]
    """Ids of the SAEs in the repository that were not given, and of which a card written now says nothing."""

    def __repr__(self) -> str:
        return (
            f"HubUpload to {self.url}\n"
            f"  {len(self.uploaded)} SAEs sent, {len(self.unchanged)} there already, {len(self.kept)} not sent; card {self.card}\n"
            f"  {len(self.others)} other SAEs there"
        )


def upload_to_hub(
    saes: SAE[Any] | str | Path | Mapping[str, SAE[Any] | str | Path],
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    license: str | None = None,
    card: str | None = None,
    install: str = INSTALL,
    existing: Existing = "refuse",
    show_progress: bool = True,
) -> HubUpload:
    """Put SAEs into a repository of the Hugging Face hub, from which `SAE.from_pretrained(repo_id, id)` loads them, with a card that says so.

    Everything is read and checked before anything is sent. Each SAE is one commit, so it is on the hub as a whole or not at all; the card is the last one.
    What is there to the byte is not sent again: after an interruption, the same call goes on. What is replaced stays in the repository's history.

    Args:
        saes: SAEs, or the folders they are saved in, by the ids they shall have: folders of the repository, such as "blocks.8.hook_resid_post/k_32". Or one
            of them alone, which is called by its folder's name, or by its hook's. An SAE in training is sent in its inference form. Of a folder are sent
            cfg.json, sae_weights.safetensors, and sparsity.safetensors and runner_cfg.json where they are.
        repo_id: The repository, "user/name"; made if need be.
        private: Make it private or public; None for what the namespace has as its default. Of one that exists this is not changed, but compared.
        revision: The branch; None for the main one, the only one that `SAE.from_pretrained` reads. Made from the main one if need be.
        token: As in huggingface_hub: a token; None for that of `hf auth login` or HF_TOKEN.
        license: The SAEs' licence, as the hub abbreviates it, such as "mit"; None to state none.
        card: The text of README.md; None for that of `model_card`.
        install: The line by which a reader gets this package, where an SAE needs it; for the card.
        existing: What to do where the repository holds something else under a name of these, README.md included: "refuse", send nothing; "keep" it, and send
            what is missing; "replace" it.
        show_progress: Show bars.

    Returns:
        What was done.

    Raises:
        FileNotFoundError: A folder or a file of it is missing.
        FileExistsError: Something else is there, and `existing="refuse"`.
        ValueError: An SAE is damaged or a checkpoint of training, or an argument is not what it should be; the message says which.
        HubUploadError: The hub cannot be reached or refuses; the message says what is there by now.
    """
    repo_id, revision = require_repo_id(_CALLER, repo_id), require_revision(_CALLER, revision)
    require_words(_CALLER, license, install)
    _require_options(private, token, card, existing, license)
    with gathered(_CALLER, by_id(_CALLER, saes)) as material:
        text = card or card_of(
            [sae.facts for sae in material], repo_id, revision=revision, license=license, install=install
        )
        with _bars(show_progress):
            upload = _Upload(HfApi(token=token), repo_id, revision, material, text, existing)
            return upload.run(private, show_progress)


def _require_options(private: Any, token: Any, card: Any, existing: Any, license: Any) -> None:
    if private not in (None, True, False):
        raise ValueError(f"{_CALLER} was given private = {private!r:.100}. Give True, False or None.")
    if token is not None and not isinstance(token, bool) and not (isinstance(token, str) and token.strip()):
        raise ValueError(  # which never shows what was given
            f"{_CALLER} was given a token of type {type(token).__name__} that is none. Give the token, or None for that of `hf auth login` or HF_TOKEN."
        )
    if card is not None and not (isinstance(card, str) and card.strip()):
        raise ValueError(
            f"{_CALLER} was given card = {card!r:.100}. Give the text of README.md, such as model_card(...) returns, or None."
        )
    if card is not None and license is not None:
        raise ValueError(
            f"{_CALLER} was given license = {license!r} together with a card, whose own text says what the licence is. Give one of the two."
        )
    if existing not in get_args(Existing):
        raise ValueError(
            f"{_CALLER} was given existing = {existing!r:.100}. Give {', '.join(map(repr, get_args(Existing)))}."
        )


class _Upload:
    """One call: what it has found and done so far."""

    def __init__(
        self, api: HfApi, repo_id: str, revision: str, material: list[Material], card: str, existing: Existing
    ) -> None:
        self.api, self.repo_id, self.revision = api, repo_id, revision
        self.material, self.card, self.existing = material, card.encode(), existing
        self.uploaded: list[str] = []
        self.waiting: list[str] = []
        self.made = ""
        self.commit: str | None = None

    def run(self, private: bool | None, show_progress: bool) -> HubUpload:
        with self._in_sentences():
            remote = look(self.api, self.repo_id, self.revision)
        if remote is not None:
            self._require_visibility(remote, private)
        states = self._states(remote)
        if "other" in states.values() and self.existing == "refuse":
            raise FileExistsError(self._refusal([name for name, state in states.items() if state == "other"]))
        to_send = {
            name
            for name, state in states.items()
            if state == "missing" or (state == "other" and self.existing == "replace")
        }
        with self._in_sentences():
            if CARD_FILE in to_send:
                self._validate_card()
            remote = self._made(remote, private)
            self.commit = remote.commit
            chosen = [sae for sae in self.material if sae.sae_id in to_send]
            self.waiting = [*(sae.sae_id for sae in chosen), *({CARD_FILE} & to_send)]
            for sae in tqdm(chosen, desc="Uploading SAEs", disable=not show_progress):
                self._send(sae, remote)
                self.uploaded.append(self.waiting.pop(0))
            if CARD_FILE in to_send:
                self._commit([CommitOperationAdd(CARD_FILE, self.card)], "Write the card")
        return self._result(states, remote)

    def _in_sentences(self) -> Any:
        return in_sentences(self.repo_id, self._progress, self.uploaded)

    def _states(self, remote: Remote | None) -> dict[str, str]:
        """Say of each SAE, and of the card, whether it is missing, unchanged or something else."""
        if remote is None:
            return dict.fromkeys([*(sae.sae_id for sae in self.material), CARD_FILE], "missing")
        states = {sae.sae_id: remote.state_of(sae) for sae in self.material}
        return {**states, CARD_FILE: remote.state_of_card(self.card)}

    def _require_visibility(self, remote: Remote, private: bool | None) -> None:
        if private is not None and private != remote.private:
            is_now = "private" if remote.private else "public"
            raise ValueError(
                f"{_CALLER} was given private = {private}, but {self.repo_id} exists and is {is_now}, which an upload does not change. Nothing was sent. Leave "
                "private out, or change the repository in its settings."
            )

    def _refusal(self, names: list[str]) -> str:
        return (
            f"{self.repo_id} holds something else already, on its branch {self.revision}, under {', '.join(map(repr, names))}. Nothing was sent. Give "
            'existing="replace" to replace it (it stays in the repository\'s history), existing="keep" to keep it and send only what is missing, or other names.'
        )

    def _validate_card(self) -> None:
        """Let the hub read the card's YAML before anything is sent."""
        try:
            ModelCard(self.card.decode()).validate(repo_type="model")
        except Exception as error:  # of YAML in any of its forms
            if hasattr(error, "response") or is_of_network(error):
                raise
            said = " ".join(str(error).split())
            raise HubUploadError(
                f"The lines between --- at the top of the card are not accepted ({said:.300}). Nothing was sent. Correct the licence or the card."
            ) from error

    def _made(self, remote: Remote | None, private: bool | None) -> Remote:
        """Make the repository and the branch where they are missing."""
        if remote is None:
            self.api.create_repo(self.repo_id, private=private)
            self.made = f"The repository {self.repo_id} was made. "
            remote = look(self.api, self.repo_id, self.revision)
            if remote is None:
                raise HubUploadError(f"{self.made}The hub does not show it yet. Repeat the call.")
        if not remote.has_branch:
            self.api.create_branch(self.repo_id, branch=self.revision, revision=remote.commit)
            remote = replace(remote, has_branch=True)
        return remote

    def _send(self, sae: Material, remote: Remote) -> None:
        additions = [CommitOperationAdd(f"{sae.sae_id}/{path.name}", path) for path in sae.files]
        deletions = [CommitOperationDelete(path) for path in remote.stale_files(sae)]
        self._commit([*additions, *deletions], f"Upload SAE {sae.sae_id}")

    def _commit(self, operations: list[Any], message: str) -> None:
        self.commit = self.api.create_commit(
            self.repo_id,
            operations,
            commit_message=message,
            revision=self.revision,
            parent_commit=self.commit,
        ).oid

    def _progress(self) -> str:
        if not self.uploaded:
            return f"{self.made}No SAE of this call was put there. Nothing here has changed: the call can be repeated."
        return (
            f"There by now, each whole: {', '.join(self.uploaded)}. Not there, or not confirmed: {', '.join(self.waiting)}. Repeating the call is safe: what is "
            "there is not sent again."
        )

    def _result(self, states: Mapping[str, str], remote: Remote) -> HubUpload:
        def of(state: str) -> tuple[str, ...]:
            ids = (sae.sae_id for sae in self.material)
            return tuple(name for name in ids if states[name] == state and name not in self.uploaded)

        at = "" if self.revision == MAIN else f"/tree/{self.revision}"
        card: Literal["written", "unchanged", "kept"] = "written"
        if states[CARD_FILE] == "unchanged":
            card = "unchanged"
        elif states[CARD_FILE] == "other" and self.existing == "keep":
            card = "kept"
        return HubUpload(
            repo_id=self.repo_id,
            revision=self.revision,
            url=f"{self.api.endpoint}/{self.repo_id}{at}",
            commit=self.commit,
            uploaded=tuple(self.uploaded),
            unchanged=of("unchanged"),
            kept=of("other"),
            card=card,
            others=tuple(sorted(remote.ids() - {sae.sae_id for sae in self.material})),
        )


@contextmanager
def _bars(show: bool) -> Generator[None, None, None]:
    """Hide the bars of the hub's own client, too, if none shall be shown."""
    if show or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
