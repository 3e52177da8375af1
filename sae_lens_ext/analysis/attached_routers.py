"""Routers that an analysis is given beside the model they are attached to."""

from typing import Any


def require_attached(caller: str, model: Any, routers: Any) -> None:
    """Raise ValueError unless the routers are attached to this very model."""
    attached = getattr(routers, "model", None)
    if attached is None:
        raise ValueError(
            f"{caller} was given routers that are attached to no model. Attach them with attach_lime(model, routers)."
        )
    if attached is not model:
        raise ValueError(
            f"{caller} was given routers that are attached to another model ({type(attached).__name__}). Give that model, or detach them and attach them "
            "to this one with attach_lime(model, routers)."
        )
