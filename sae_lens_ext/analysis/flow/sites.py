"""The SAEs along one residual stream, by site: which layer, and the stream itself, the MLP's output or the attention's."""

import json
import operator
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from sae_lens import SAE
from sae_lens.constants import SAE_CFG_FILENAME
from typing_extensions import override

from sae_lens_ext.analysis.dictionaries import SAESource, decoder_rows, open_sae, require_folded
from sae_lens_ext.analysis.flow.attention_heads import through_output_weights

Kind = Literal["residual", "mlp", "attention"]
KINDS: tuple[Kind, ...] = ("residual", "mlp", "attention")
"""What a residual feature may come from: the stream one layer before, this layer's MLP, this layer's attention."""

_SUFFIXES: dict[str, Kind] = {
    "hook_resid_post": "residual",
    "hook_out": "residual",
    "hook_resid_pre": "residual",
    "hook_in": "residual",
    "hook_mlp_out": "mlp",
    "mlp.hook_out": "mlp",
    "hook_attn_out": "attention",
    "attn.hook_out": "attention",
    "ln2_post.hook_out": "mlp",
    "ln1_post.hook_out": "attention",
    "attn.hook_z": "attention",
    "attn.o.hook_in": "attention",
}
_BEFORE_THE_BLOCK = ("hook_resid_pre", "hook_in")
_HEADS = ("attn.hook_z", "attn.o.hook_in")
_KEPT_ROWS = 4

FlowSources = Mapping[str, SAESource] | Sequence[SAESource]
"""SAEs by hook name, or in a row; then each one's metadata name its hook."""


@dataclass(frozen=True)
class FlowSite:
    """A place on or beside the residual stream."""

    hook_name: str
    """As the user named it."""
    layer: int
    """The block, from 0. The residual stream of a layer is the one after its block, so `blocks.3.hook_resid_pre` is of layer 2."""
    kind: Kind
    """The residual stream, or what the MLP or the attention adds to it."""

    @property
    def short(self) -> str:
        """The site as feature lists have it: "10/res", "10/mlp", "10/att"."""
        return f"{self.layer}/{self.kind[:3]}"


def flow_site(hook_name: str) -> FlowSite:
    """Say which site a hook is.

    Where a block has norms after its attention and its MLP, as Gemma 2's has, what is added to the stream is what these norms put out:
    HookedTransformer's `hook_attn_out` and `hook_mlp_out`, TransformerBridge's `ln1_post.hook_out` and `ln2_post.hook_out`. Its
    `attn.hook_out` and `mlp.hook_out` are before the norms there, and the names do not tell.

    Args:
        hook_name: HookedTransformer's name or TransformerBridge's.

    Raises:
        ValueError: The hook is none on or beside the residual stream.
    """
    found = re.fullmatch(r"blocks\.(\d+)\.([\w.]+)", str(hook_name))
    if found is None or found[2] not in _SUFFIXES or (found[1] == "0" and found[2] in _BEFORE_THE_BLOCK):
        raise ValueError(
            f"The hook {hook_name!r} is none that features flow through. Give blocks.L.hook_resid_post (or hook_out), hook_mlp_out "
            "(mlp.hook_out), hook_attn_out (attn.hook_out) or attn.hook_z."
        )
    layer = int(found[1]) - (found[2] in _BEFORE_THE_BLOCK)
    return FlowSite(hook_name, layer, _SUFFIXES[found[2]])


@dataclass(frozen=True)
class _Facts:
    """What an SAE's configuration says, without its weights."""

    hook_name: str | None
    model_name: str | None
    neuronpedia_id: str | None
    d_in: int
    d_sae: int

    @classmethod
    def of(cls, sae: SAE[Any]) -> "_Facts":
        metadata = sae.cfg.metadata
        return cls(
            metadata.hook_name_out or metadata.hook_name,  # a transcoder's features are where it writes
            metadata.model_name,
            metadata.neuronpedia_id,
            sae.W_dec.shape[1],
            sae.cfg.d_sae,
        )

    @classmethod
    def in_folder(cls, folder: Path) -> "_Facts | None":
        """Read the configuration of a saved SAE; None if it is no plain one, so that it must be loaded."""
        try:
            content = json.loads((folder / SAE_CFG_FILENAME).read_text(encoding="utf-8"))
            metadata = content["metadata"]
            return cls(
                metadata.get("hook_name_out") or metadata["hook_name"],
                metadata.get("model_name"),
                metadata.get("neuronpedia_id"),
                content.get("d_out") or content["d_in"],
                content["d_sae"],
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


class FlowSites(Mapping[str, SAE[Any]]):
    """SAEs of one model by hook, in the order of the layers; folders are opened when they are asked for.

    Indexed by hook name they give the SAE, which then stays in memory. `rows` gives the decoder alone and forgets all but the last
    few, so that going through the layers takes the memory of some dictionaries, however many there are.
    """

    def __init__(
        self,
        caller: str,
        sources: Mapping[FlowSite, SAESource],
        facts: Mapping[str, _Facts],
        model: Any,
        device: str | None,
    ) -> None:
        self._caller = caller
        order = sorted(sources, key=lambda site: (site.layer, KINDS.index(site.kind)))
        self._sites = {site.hook_name: site for site in order}
        self._sources = {site.hook_name: sources[site] for site in order}
        self._facts = {name: facts[name] for name in self._sites}
        self._model = model
        self._device = device
        self._rows: OrderedDict[str, torch.Tensor] = OrderedDict()

    @classmethod
    def open(
        cls, caller: str, sites: "FlowSources | FlowSites", *, model: Any = None, device: str | None = None
    ) -> "FlowSites":
        """Learn which SAEs there are.

        Args:
            caller: Function the SAEs were given to, for messages.
            sites: The SAEs by hook name, or in a row.
            model: The language model; needed for SAEs of the attention's heads (`attn.hook_z`) alone, whose decoders are mapped
                to the stream by its output weights.
            device: Where `rows` puts what it gives; None for where the SAEs are, which is the CPU for folders.

        Raises:
            FileNotFoundError: A folder is missing.
            ValueError: There are none; a hook is none features flow through, or is another than the SAE's own; two are of one site; they
                are of different models or widths; an SAE's normalisation was never folded.
        """
        if isinstance(sites, FlowSites):
            return cls(
                caller,
                {sites._sites[name]: source for name, source in sites._sources.items()},
                sites._facts,
                sites._model if model is None else model,
                sites._device if device is None else device,
            )
        if not isinstance(sites, (Mapping, Sequence)) or isinstance(sites, str) or not sites:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"{caller} was given {str(sites)[:60]!r} as sites. Give a mapping from hook names to SAEs, or a list of SAEs."
            )
        named: list[tuple[str | None, SAESource]] = (
            [(str(name), source) for name, source in sites.items()]
            if isinstance(sites, Mapping)
            else [(None, source) for source in sites]
        )
        sources: dict[FlowSite, SAESource] = {}
        facts: dict[str, _Facts] = {}
        for name, source in named:
            opened, known = _facts_of(caller, source)
            site = flow_site(_hook_of(caller, name, known))
            twin = next((s for s in sources if (s.layer, s.kind) == (site.layer, site.kind)), None)
            if twin is not None:
                raise ValueError(
                    f"{caller} was given two SAEs of one site, {twin.hook_name!r} and {site.hook_name!r}. Give one."
                )
            sources[site], facts[site.hook_name] = opened, known
        _require_one_stream(caller, facts, model)
        return cls(caller, sources, facts, model, device)

    @override
    def __getitem__(self, hook_name: str) -> SAE[Any]:
        name = self.name_of(hook_name)
        sae = self._open(name)
        self._sources[name] = sae
        return sae

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    @override
    def __len__(self) -> int:
        return len(self._sites)

    @override
    def __contains__(self, hook_name: object) -> bool:
        try:
            self.name_of(str(hook_name))
        except ValueError:
            return False
        return True

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers of which there is any site, ascending."""
        return tuple(sorted({site.layer for site in self._sites.values()}))

    @property
    def missing(self) -> tuple[str, ...]:
        """A sentence for each site that is absent between the first and the last layer with a residual SAE."""
        residual = [site.layer for site in self._sites.values() if site.kind == "residual"]
        if not residual:
            return ("There is no SAE of the residual stream.",)
        found: list[str] = []
        for kind in KINDS:
            absent = [
                layer for layer in range(min(residual), max(residual) + 1) if self.at(layer, kind) is None
            ]
            if absent:
                found.append(
                    f"No SAE of the {'residual stream' if kind == 'residual' else kind + ' output'} at layer"
                    f"{'' if len(absent) == 1 else 's'} {', '.join(map(str, absent))}."
                )
        return tuple(found)

    @property
    def neuronpedia_ids(self) -> dict[str, str]:
        """What Neuronpedia calls the SAEs, by hook, where they say so."""
        return {name: facts.neuronpedia_id for name, facts in self._facts.items() if facts.neuronpedia_id}

    @property
    def model_name(self) -> str | None:
        """The language model, as the first SAE that says so calls it."""
        return next((facts.model_name for facts in self._facts.values() if facts.model_name), None)

    def site(self, hook_name: str) -> FlowSite:
        """Give the site of a hook, under either of its names."""
        return self._sites[self.name_of(hook_name)]

    def d_sae(self, hook_name: str) -> int:
        """Say how many features there are at a hook, without loading them."""
        return self._facts[self.name_of(hook_name)].d_sae

    def name_of(self, hook_name: str) -> str:
        """Give the name under which a hook's SAE was given.

        Raises:
            ValueError: There is no SAE at this hook, or no features flow through it.
        """
        if hook_name in self._sites:
            return hook_name
        wanted = flow_site(hook_name)
        name = self.at(wanted.layer, wanted.kind)
        if name is not None:
            return name
        raise ValueError(
            f"{self._caller} was given no SAE at {hook_name!r}. There are SAEs at {', '.join(map(repr, self._sites))}. Name one of these, or give "
            "that SAE as well."
        )

    def at(self, layer: int, kind: Kind) -> str | None:
        """Give the hook of a layer and kind, None where there is no SAE."""
        return next((s.hook_name for s in self._sites.values() if (s.layer, s.kind) == (layer, kind)), None)

    def predecessors(self, hook_name: str) -> dict[Kind, str]:
        """Give the hooks that a residual feature may come from, by kind, as far as there are SAEs; none for other features."""
        site = self.site(hook_name)
        if site.kind != "residual":
            return {}
        found: dict[Kind, str] = {}
        for kind in KINDS:
            name = self.at(site.layer - (kind == "residual"), kind)
            if name is not None:
                found[kind] = name
        return found

    def successor(self, hook_name: str) -> str | None:
        """Give the residual hook that a feature goes on to: this layer's for a module's, the next one's for the stream's."""
        site = self.site(hook_name)
        return self.at(site.layer + (site.kind == "residual"), "residual")

    def rows(self, hook_name: str) -> torch.Tensor:
        """Give the decoder of a site as directions of the residual stream: [d_sae, d_model], float32, unit rows (or zeros)."""
        name = self.name_of(hook_name)
        if name in self._rows:
            self._rows.move_to_end(name)
            return self._rows[name]
        rows = decoder_rows(name, self._open(name))
        if name.endswith(_HEADS):
            rows = through_output_weights(rows, name, self._sites[name].layer, self._model)
        self._rows[name] = rows = rows if self._device is None else rows.to(self._device)
        if len(self._rows) > _KEPT_ROWS:
            self._rows.popitem(last=False)
        return rows

    def is_of_heads(self, hook_name: str) -> bool:
        """Tell whether an SAE reads the attention's heads, so that its own decoder rows are no directions of the stream."""
        return self.name_of(hook_name).endswith(_HEADS)

    def index(self, hook_name: str, index: Any) -> int:
        """Give a feature's index, of any integer type, as an int.

        Raises:
            ValueError: The SAE at this hook has no such feature.
        """
        d_sae = self.d_sae(hook_name)
        try:
            found = -1 if isinstance(index, bool) else operator.index(index)
        except TypeError:
            found = -1
        if not 0 <= found < d_sae:
            raise ValueError(
                f"{self._caller} was given the feature {index!r} of {hook_name!r}, whose SAE has the features 0 to {d_sae - 1}. Give one of these."
            )
        return found

    def _open(self, name: str) -> SAE[Any]:
        sae = open_sae(self._caller, self._sources[name])
        require_folded(self._caller, {name: sae})
        return sae


def _facts_of(caller: str, source: SAESource) -> tuple[SAESource, _Facts]:
    """Give an SAE in inference form, or where it is, and what it says of itself."""
    if isinstance(source, (str, Path)):
        facts = _Facts.in_folder(Path(source))
        if facts is not None:
            return source, facts
    sae = open_sae(caller, source)
    require_folded(caller, {str(sae.cfg.metadata.hook_name): sae})
    # What can be loaded again is not kept, lest all the SAEs of a model are in memory.
    return (sae if isinstance(source, SAE) else source), _Facts.of(sae)


def _hook_of(caller: str, name: str | None, facts: _Facts) -> str:
    own = facts.hook_name
    if name is None and own is None:
        raise ValueError(
            f"{caller} was given an SAE that names no hook in its metadata. Give a mapping from hook names to SAEs."
        )
    if name is None or own is None:
        return str(name or own)
    given, recorded = flow_site(name), flow_site(own)
    if (given.layer, given.kind) != (recorded.layer, recorded.kind):
        raise ValueError(
            f"{caller} was given, for {name!r}, an SAE of {own!r}. Give each SAE under its own hook; if its metadata is wrong, set "
            "sae.cfg.metadata.hook_name."
        )
    # The heads are no other name for the attention's output: what is said of the SAE itself holds.
    return own if own.endswith(_HEADS) != name.endswith(_HEADS) else name


def _require_one_stream(caller: str, facts: Mapping[str, _Facts], model: Any) -> None:
    widths = {name: known.d_in for name, known in facts.items() if not name.endswith(_HEADS)}
    for name, width in widths.items():
        first = next(iter(widths))
        if width != widths[first]:
            raise ValueError(
                f"{caller} was given SAEs of different widths: {widths[first]} ({first!r}) and {width} ({name!r}). Features flow along one residual "
                "stream: give SAEs of one model."
            )
    models = {known.model_name: name for name, known in facts.items() if known.model_name is not None}
    if len(models) > 1:
        (first, at_first), (second, at_second) = list(models.items())[:2]
        raise ValueError(
            f"{caller} was given SAEs of different models: {first!r} ({at_first!r}) and {second!r} ({at_second!r}). Give SAEs of one model; if it is "
            "one under two names, set sae.cfg.metadata.model_name."
        )
    heads = next((name for name in facts if name.endswith(_HEADS)), None)
    if heads is not None and model is None:
        raise ValueError(
            f"{caller} was given an SAE of the attention's heads, {heads!r}, whose features are no directions of the residual stream before the "
            "layer's output weights. Give model=, the language model."
        )
