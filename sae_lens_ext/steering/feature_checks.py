"""Where a feature of an SAE is steered, and which SAEs and features can be."""

from typing import Any

import torch
from sae_lens import SAE

from sae_lens_ext.analysis.dictionaries import require_folded
from sae_lens_ext.architectures.residual import BASE_METADATA_KEY
from sae_lens_ext.language_model import Site
from sae_lens_ext.number_checks import whole_number


def sae_name(sae: SAE[Any]) -> str:
    """Give a name for messages."""
    return sae.cfg.metadata.hook_name or f"{sae.cfg.architecture()}, d_sae {sae.cfg.d_sae}"


def is_transcoder(sae: SAE[Any]) -> bool:
    """Tell whether an SAE writes elsewhere than it reads."""
    metadata = sae.cfg.metadata
    return metadata.hook_name_out not in (None, metadata.hook_name) or "transcoder" in sae.cfg.architecture()


def require_feature(owner: str, sae: Any, index: Any) -> int:
    """Give the feature's number as an int; raise ValueError unless the SAE has it, and its features are vectors of the model's activations.

    Args:
        owner: Class they were given to, for messages.
        sae: What the user gave as the SAE.
        index: What the user gave as the feature: a whole number of Python's, NumPy's or PyTorch's.
    """
    if not isinstance(sae, SAE):
        raise ValueError(
            f"{owner} was given {type(sae).__name__} as the SAE. Load it first, such as with load_sae(path)."
        )
    found = whole_number(index)
    if found is None:
        raise ValueError(
            f"{owner} was given index = {index!r}. Give the number of one feature, an int; add interventions for several."
        )
    if not 0 <= found < sae.cfg.d_sae:
        raise ValueError(
            f"{owner} was given index = {found}, but the SAE {sae_name(sae)!r} has the features 0 to {sae.cfg.d_sae - 1}. Give one of these."
        )
    require_folded(owner, {sae_name(sae): sae})
    if sae.cfg.metadata[BASE_METADATA_KEY] is not None:
        raise ValueError(
            f"{owner} was given the SAE {sae_name(sae)!r}, which is a residual SAE by itself: it reads what its base leaves over. "
            'Stack it: ResidualStackSAE.from_saes(base, {"domain": residual}), and take the features of the stack.'
        )
    return found


def require_reads_where_it_writes(owner: str, sae: SAE[Any]) -> None:
    """Raise ValueError if the live activations of an SAE cannot be read from the tokens it changes, one by one."""
    if is_transcoder(sae):
        raise ValueError(
            f"{owner} was given {sae_name(sae)!r} ({sae.cfg.architecture()}), a transcoder: its features are read at another hook than they act at. "
            "Use AddFeature, or an SAE."
        )
    if sae.cfg.architecture() == "temporal":
        raise ValueError(
            f"{owner} was given {sae_name(sae)!r}, a temporal SAE, whose features depend on the tokens before, which a pass with a key-value "
            "cache does not see. Use AddFeature, or another SAE."
        )


def feature_site(owner: str, sae: SAE[Any], hook_name: str | None) -> Site:
    """Give the site a feature is steered at.

    Args:
        owner: Class they were given to, for messages.
        sae: The SAE.
        hook_name: What the user gave, or None for the SAE's metadata.

    Raises:
        ValueError: Neither names a hook.
    """
    given: Any = hook_name
    if given is not None and (not isinstance(given, str) or not given):
        raise ValueError(
            f"{owner} was given hook_name = {given!r:.100}. Give the name of a hook, such as 'blocks.10.hook_resid_post', or None for the SAE's own."
        )
    metadata = sae.cfg.metadata
    found = hook_name or metadata.hook_name_out or metadata.hook_name
    if found is None:
        raise ValueError(
            f"{owner} was given an SAE ({sae_name(sae)}) that names no hook in its metadata. Give hook_name, such as 'blocks.10.hook_resid_post'."
        )
    return Site(found, metadata.hook_head_index)


def unit_row(owner: str, sae: SAE[Any], index: int) -> torch.Tensor:
    """Give a feature's decoder row at unit length, [d_in] (of a transcoder [d_out]), detached.

    Raises:
        ValueError: The row is zero, NaN or infinite, or the SAE has none.
    """
    if sae.W_dec.ndim != 2 or len(sae.W_dec) != sae.cfg.d_sae:
        raise ValueError(
            f"{owner} was given the SAE {sae_name(sae)!r} ({sae.cfg.architecture()}), whose decoder has not one row for each feature. "
            "Give an SAE with a linear decoder."
        )
    row = sae.W_dec[index].detach()
    row = row.to(torch.promote_types(row.dtype, torch.float32))
    norm = row.norm()
    if not torch.isfinite(norm) or norm == 0:
        raise ValueError(
            f"{owner} was given feature {index} of the SAE {sae_name(sae)!r}, whose decoder row is zero, NaN or infinite, so it has no "
            "direction. Choose another feature."
        )
    return row / norm
