"""A hub for each test, which the client asks in place of the real one."""

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http, close_session

from tests.hub.saes import made_saes
from tests.hub.stand_in import StandIn, served


@pytest.fixture(scope="session")
def saes() -> dict[str, Any]:
    """One SAE of each kind, tiny; read them only."""
    return made_saes()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    """An empty hub that this process's client asks; the token is that of the owner of "me"."""
    with served() as hub:
        for name, value in {
            "ENDPOINT": hub.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(tmp_path / "hub_cache"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", "writer")
        # Its client waits up to half a minute between attempts.
        waits = types.SimpleNamespace(**{**vars(_http.time), "sleep": lambda _seconds: None})
        monkeypatch.setattr(_http, "time", waits)
        yield hub
        close_session()
