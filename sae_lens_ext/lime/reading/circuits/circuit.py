"""One circuit through the depth of a model: a head that reads another one's buffer."""

from dataclasses import dataclass
from typing import Any

from sae_lens_ext.analysis.top_contexts import Context

Index = tuple[int, int, int, int]
"""Target layer and head, source layer and head."""


@dataclass(frozen=True)
class ServedToken:
    """A token of the vocabulary that a circuit serves."""

    token: str
    """The token as text, decoded by itself, with the space it begins with; `<id>` without a tokenizer."""
    token_id: int
    """Its id."""
    value: float
    """Mean over its occurrences of what it is ranked by: the share of the source in the routed value, or ‖c‖. See `depthwise_circuits`."""
    count: int
    """Its occurrences."""


@dataclass(frozen=True)
class Served:
    """What is kept of the tokens that one circuit serves."""

    tokens: tuple[ServedToken, ...]
    """Tokens of the vocabulary, the first most."""
    contexts: tuple[Context, ...]
    """Single positions, the first most."""


@dataclass(frozen=True)
class Circuit:
    """A target head, a source head, and what goes from one to the other. Heads are key-value heads."""

    layer: int
    """Target layer ℓ."""
    head: int
    """Target head h."""
    source_layer: int
    """Source layer ℓ′ ≤ ℓ."""
    source_head: int
    """Source head h′."""
    weight: float
    """R, signed."""
    value_share: float
    """Share of the source in the routed value: mean over tokens of ⟨c, Ṽ⟩ / ‖Ṽ‖², signed; those of all sources of a head sum to 1."""
    key_share: float
    """The same of the routed key."""
    tokens: tuple[ServedToken, ...]
    """The tokens of the vocabulary it serves, the first most; empty where none were kept."""
    contexts: tuple[Context, ...]
    """The single positions it serves most, each of another sequence, the first most; empty where none were kept."""

    @property
    def name(self) -> str:
        """The circuit in short, such as "L7.H1 ← L0.H2"."""
        return f"L{self.layer}.H{self.head} ← L{self.source_layer}.H{self.source_head}"


def index_of(content: Any) -> Index:
    """Read an index from JSON."""
    layer, head, source_layer, source_head = (int(i) for i in content)
    return layer, head, source_layer, source_head


def served_of(content: Any) -> Served:
    """Read what `dataclasses.asdict` made of a Served from JSON."""
    return Served(
        tuple(ServedToken(**token) for token in content["tokens"]),
        tuple(
            Context(one["text"], tuple(one["tokens"]), tuple(one["activations"]), int(one["peak"]))
            for one in content["contexts"]
        ),
    )
