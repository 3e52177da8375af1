"""SAEs as dictionaries: what the analyses compare, loaded from wherever they are."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias

import torch
from sae_lens import SAE

from sae_lens_ext.architectures.inference import as_inference
from sae_lens_ext.architectures.kron import KronSAE
from sae_lens_ext.architectures.loading import load_sae
from sae_lens_ext.architectures.residual_stack import ResidualStackSAE
from sae_lens_ext.architectures.sae_checks import require_sae
from sae_lens_ext.architectures.validation import ESTIMATED_NORMALIZATIONS
from sae_lens_ext.language_model.hook_names import same_hook

SAESource: TypeAlias = SAE[Any] | str | Path | tuple[str, str]
"""An SAE; a folder it is saved in; or a release and the SAE's id in it, as `SAE.from_pretrained` takes them."""
SAESources: TypeAlias = Sequence[SAESource] | Mapping[str, SAESource]

_SAME_ROW = 0.9999
"""A row rounded to bfloat16 has at least this cosine with itself."""


def open_saes(caller: str, saes: SAESources) -> dict[str, SAE[Any]]:
    """Load SAEs that are not loaded yet, and give each a name.

    Args:
        caller: Function the SAEs were given to, for messages.
        saes: The SAEs, by name or in a row. In a row a folder gives the name of the folder, a release its id, and an object the
            seed in its metadata or its position.

    Returns:
        Inference SAEs by name, in the order given.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: There are fewer than two, two have one name, or what was given is no SAE.
    """
    if isinstance(saes, (str, Path, SAE)):
        raise ValueError(f"{caller} was given one SAE, {str(saes)[:60]!r}. Give two or more, in a list.")
    if not isinstance(saes, (Mapping, Iterable)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"{caller} was given SAEs of type {type(saes).__name__}. Give two or more, in a list or by name."
        )
    if isinstance(saes, Mapping):
        named = [(str(name), source) for name, source in saes.items()]
    else:
        saes = list(saes)
        key = _what_differs(saes)
        named = [(_name(source, i, key), source) for i, source in enumerate(saes)]
    if len(named) < 2:
        raise ValueError(
            f"{caller} was given {len(named)} SAE{'' if len(named) == 1 else 's'}. Give two or more: stability is what SAEs have in common."
        )
    names = [name for name, _ in named]
    if len(set(names)) < len(names):  # the same folder name below two runs
        names = [f"{name}#{i}" for i, name in enumerate(names)]
    return {name: open_sae(caller, source) for name, (_, source) in zip(names, named, strict=True)}


def open_sae(caller: str, source: SAESource) -> SAE[Any]:
    """Load an SAE that is not loaded yet.

    Args:
        caller: Function the SAE was given to, for messages.
        source: The SAE, its folder, or its release and id.

    Returns:
        An inference SAE.

    Raises:
        FileNotFoundError: The folder is missing.
        ValueError: What was given is no SAE.
    """
    if isinstance(source, SAE):
        return as_inference(require_sae(caller, "an SAE", source))
    if isinstance(source, tuple):
        if len(source) != 2 or not all(isinstance(part, str) for part in source):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"{caller} was given {source!r}. Give a release as (release, sae_id), two texts."
            )
        return SAE.from_pretrained(*source)
    if isinstance(source, (str, Path)):  # pyright: ignore[reportUnnecessaryIsInstance]
        return load_sae(source)
    raise ValueError(
        f"{caller} was given {type(source).__name__} as an SAE. Give an SAE, a folder, or (release, sae_id)."
    )


def _what_differs(saes: Sequence[SAESource]) -> str:
    """Say which of the two seeds tells SAEs apart."""
    found = [s.cfg.metadata.initialisation_seed for s in saes if isinstance(s, SAE)]
    return "data_order_seed" if len(found) > 1 and len(set(found)) == 1 else "initialisation_seed"


def _name(source: SAESource, position: int, seed_key: str) -> str:
    if isinstance(source, tuple):
        return "/".join(map(str, source))
    if isinstance(source, (str, Path)):
        return Path(source).resolve().name
    seed = source.cfg.metadata[seed_key] if isinstance(source, SAE) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    if seed is None:
        return f"sae_{position}"
    # A HierarchicalTopK is saved as a topk: the name says what it was trained as.
    architecture = source.cfg.metadata.training_architecture or source.cfg.architecture()
    return f"{architecture}_seed_{seed}"


def decoder_rows(name: str, sae: SAE[Any]) -> torch.Tensor:
    """Give an SAE's decoder rows at unit length, [d_sae, d_in], float32, on its device; a row of zeros stays one.

    Raises:
        ValueError: Something is NaN or infinite.
    """
    return _unit_rows(name, "decoder", sae.W_dec.detach())


def decoder_rows_used(name: str, sae: SAE[Any]) -> torch.Tensor:
    """Give what each latent adds to the reconstruction at an activation of 1, [d_sae, d_in], float32.

    Raises:
        ValueError: The SAE has no decoder rows.
    """
    rows = sae.W_dec.detach().float()
    if rows.shape != (sae.cfg.d_sae, sae.cfg.d_in):
        raise ValueError(
            f"The SAE {name!r} ({sae.cfg.architecture()}) does not decode to a sum of its latents' decoder rows: there is not one of width d_in for "
            "each latent. Give an SAE with a linear decoder."
        )
    normed = len(rows) if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False) else 0
    if isinstance(sae, ResidualStackSAE) and sae.cfg.base_rescale_acts_by_decoder_norm:
        normed = sae.cfg.part_sizes[0]
    norms = rows[:normed].norm(dim=-1, keepdim=True)
    return torch.cat([rows[:normed] / norms, rows[normed:]])


def encoder_rows(name: str, sae: SAE[Any]) -> torch.Tensor | None:
    """Give each latent's encoder vector at unit length, [d_sae, d_in]; None where a latent has none of its own, as in Kron.

    Raises:
        ValueError: Something is NaN or infinite.
    """
    W_enc = getattr(sae, "W_enc", None)
    # Kron's fused W_enc may have as many columns as there are latents, but they are its heads' vectors.
    if isinstance(sae, KronSAE) or not isinstance(W_enc, torch.Tensor):
        return None
    if W_enc.shape != (sae.cfg.d_in, sae.cfg.d_sae):
        return None
    return _unit_rows(name, "encoder", W_enc.detach().T)


def require_same_site(caller: str, saes: Mapping[str, SAE[Any]]) -> None:
    """Raise ValueError unless all SAEs read vectors of one width at one hook of one model, as far as their metadata say.

    Args:
        caller: Function the SAEs were given to, for messages.
        saes: The SAEs by name.
    """
    first_name, first = next(iter(saes.items()))
    for name, sae in saes.items():
        if sae.cfg.d_in != first.cfg.d_in:
            raise ValueError(
                f"{caller} was given SAEs of different d_in: {first.cfg.d_in} ({first_name!r}) and {sae.cfg.d_in} ({name!r}). Their features are "
                "vectors of different spaces. Give SAEs of one hook of one model."
            )
    for what, field in (("hook", "hook_name"), ("head", "hook_head_index"), ("model", "model_name")):
        known = [
            (name, sae.cfg.metadata[field])
            for name, sae in saes.items()
            if sae.cfg.metadata[field] is not None
        ]
        for name, value in known[1:]:
            if value != known[0][1] and not (what == "hook" and same_hook(known[0][1], value)):
                raise ValueError(
                    f"{caller} was given SAEs of different {what}s: {known[0][1]!r} ({known[0][0]!r}) and {value!r} ({name!r}), so that equal directions "
                    f"mean nothing. Give SAEs of one {what}; if it is the same under two names, set sae.cfg.metadata.{field}."
                )


def require_folded(caller: str, saes: Mapping[str, SAE[Any]]) -> None:
    """Raise ValueError if an SAE reads activations that a trainer scaled or whitened by numbers it kept to itself.

    Args:
        caller: Function the SAEs were given to, for messages.
        saes: The SAEs by name.
    """
    for name, sae in saes.items():
        if sae.cfg.normalize_activations in ESTIMATED_NORMALIZATIONS:
            raise ValueError(
                f"{caller} was given the SAE {name!r} with normalize_activations = {sae.cfg.normalize_activations!r}, which was never folded into its "
                "weights, so it does not read the model's activations as they are. Fold it first, as SAELens' runner does at the end of training."
            )


def require_no_twins(caller: str, rows: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError if two SAEs have the same decoder, row by row, but for rounding.

    Args:
        caller: Function the SAEs were given to, for messages.
        rows: Decoder rows [d_sae, d_in] of unit length (or zeros) by the SAE's name.
    """
    for (name, own), (other_name, other) in combinations(rows.items(), 2):
        if own.shape != other.shape:
            continue
        other = other.to(own.device)
        if bool((((own * other).sum(dim=1) >= _SAME_ROW) | ((own == 0) & (other == 0)).all(dim=1)).all()):
            raise ValueError(
                f"{caller} was given the same SAE twice: the decoders of {name!r} and {other_name!r} are identical, and every feature would seem to "
                "come back. Leave one out."
            )


def require_threshold(caller: str, threshold: Any) -> None:
    """Raise ValueError unless `threshold` is a cosine that can tell features apart."""
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or not 0 < float(threshold) <= 1:
        raise ValueError(
            f"{caller} was given threshold = {threshold!r}. Give a cosine above 0 and up to 1, such as 0.7."
        )


def _unit_rows(name: str, what: str, rows: torch.Tensor) -> torch.Tensor:
    rows = rows.float()
    if not torch.isfinite(rows).all():
        raise ValueError(
            f"The {what} of the SAE {name!r} holds NaN or infinity. Load it from a save that is whole."
        )
    return torch.nn.functional.normalize(rows, dim=1)
