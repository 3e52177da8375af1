"""What `compare_new_latents` found, as a table, a page and a file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_lens_ext.analysis.new_latents.page import html_page, html_section
from sae_lens_ext.analysis.result_files import load_result, save_result
from sae_lens_ext.analysis.top_contexts import Context
from sae_lens_ext.files import write_whole

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "sae_lens_ext.NewLatents/1"


@dataclass(frozen=True)
class LatentUse:
    """What one latent does on the texts."""

    index: int
    """Index of the latent within its domain, or within the base."""
    flat_index: int
    """Its index in the stack."""
    firing_rates: Mapping[str, float]
    """By text: share of the tokens that count at which its activation is not 0."""
    max_activation: float
    """Largest activation on all texts; 0 if it never fires."""
    contexts: tuple[Context, ...]
    """Where it fires most, the strongest first, each in another packed context; empty if it never fires. Their
    activations are measured a second time, in another batch, and so may differ from `max_activation` by rounding."""
    url: str | None
    """Its page on Neuronpedia; None for latents of a domain, or if the base's metadata name none."""


@dataclass(frozen=True)
class LatentPair:
    """A latent of the domain, and the base's most similar one."""

    new: LatentUse
    """The domain's latent."""
    base: LatentUse
    """The base's latent whose decoder row has the largest cosine with the new one's; several new latents may
    share it."""
    cosine: float
    """That cosine, −1 to 1; 0 if a row is 0."""


@dataclass(frozen=True, repr=False)
class NewLatents:
    """Latents of one domain beside those of the base. See `compare_new_latents`."""

    pairs: tuple[LatentPair, ...]
    """One for each latent: as they were asked for, or those that contribute most first."""
    domain: str
    """The domain they belong to."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, model, hook, a hash of the base, and how the texts were read."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the texts, in the order they were given."""
        return tuple(dict.fromkeys(text for pair in self.pairs for text in pair.new.firing_rates))

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with a row for each pair.

        Returns:
            The columns latent, flat_index, base_latent (indices within domain, stack and base), cosine;
            for each text rate[text] and base_rate[text]; max_activation, base_max_activation; top_token and
            base_top_token, the strongest token, None for a latent that never fires.
        """
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "latent": pair.new.index,
                    "flat_index": pair.new.flat_index,
                    "base_latent": pair.base.index,
                    "cosine": pair.cosine,
                    **{f"rate[{text}]": rate for text, rate in pair.new.firing_rates.items()},
                    **{f"base_rate[{text}]": rate for text, rate in pair.base.firing_rates.items()},
                    "max_activation": pair.new.max_activation,
                    "base_max_activation": pair.base.max_activation,
                    "top_token": _top_token(pair.new),
                    "base_top_token": _top_token(pair.base),
                }
                for pair in self.pairs
            ]
        )

    def html_section(self) -> str:
        """Give what `write_html` shows, as a fragment for another page's body; its style is `SECTION_CSS`."""
        return html_section(self)

    def write_html(self, path: str | Path, *, title: str | None = None) -> None:
        """Write one HTML file that needs neither JavaScript nor a network, whole or not at all.

        Args:
            path: The file; its folder must exist.
            title: The page's heading; by default it names the domain.
        """
        write_whole(path, html_page(self, title or f"New latents of the domain “{self.domain}”"))

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, whole or not at all.

        Args:
            path: The file; its folder must exist.
        """
        content = {
            "domain": self.domain,
            "provenance": dict(self.provenance),
            "pairs": [asdict(pair) for pair in self.pairs],
        }
        save_result(path, FORMAT, content)

    @classmethod
    def load(cls, path: str | Path) -> "NewLatents":
        """Read a result that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result.
        """

        def build(content: Any) -> NewLatents:
            pairs = tuple(_pair(pair) for pair in content["pairs"])
            return cls(pairs, str(content["domain"]), dict(content["provenance"]))

        return load_result(path, FORMAT, build, "search again with compare_new_latents")

    def __repr__(self) -> str:
        counted = self.provenance.get("n_tokens", {})
        texts = ", ".join(
            f"{text} ({counted[text]:,} tokens)" if text in counted else text for text in self.texts
        )
        return (
            f"NewLatents: {len(self.pairs)} latents of the domain {self.domain!r}, each beside the base's most similar\n"
            f"  on {len(self.texts)} texts: {texts}\n"
            f"  {self.provenance.get('model_name')} at {self.provenance.get('hook_name')}"
        )

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, float_format=lambda x: f"{x:.3g}", na_rep="never fires")


def _top_token(use: LatentUse) -> str | None:
    return use.contexts[0].tokens[use.contexts[0].peak] if use.contexts else None


def _pair(content: Any) -> LatentPair:
    return LatentPair(_use(content["new"]), _use(content["base"]), float(content["cosine"]))


def _use(content: Any) -> LatentUse:
    return LatentUse(
        index=int(content["index"]),
        flat_index=int(content["flat_index"]),
        firing_rates={str(text): float(rate) for text, rate in content["firing_rates"].items()},
        max_activation=float(content["max_activation"]),
        contexts=tuple(_context(context) for context in content["contexts"]),
        url=content["url"],
    )


def _context(content: Any) -> Context:
    context = Context(
        text=str(content["text"]),
        tokens=tuple(str(token) for token in content["tokens"]),
        activations=tuple(float(activation) for activation in content["activations"]),
        peak=int(content["peak"]),
    )
    if not 0 <= context.peak < len(context.tokens) == len(context.activations):
        raise ValueError(
            f"a context of {len(context.tokens)} tokens has {len(context.activations)} activations and its peak at "
            f"{context.peak}"
        )
    return context
