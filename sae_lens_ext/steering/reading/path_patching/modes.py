"""Which paths a vector takes through a block: what of the block reads it, and whether the residual stream carries it on."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from sae_lens_ext.number_checks import whole_number

Whole = Literal["full", "skip_attn", "skip_mlp", "skip_layer", "base"]
Part = Literal["q", "k", "v"]
WHOLE: tuple[Whole, ...] = get_args(Whole)
PARTS: tuple[Part, ...] = get_args(Part)

_ATTENTION_READS: tuple[str, ...] = ("full", "skip_mlp")
_MLP_READS: tuple[str, ...] = ("full", "skip_attn")
_KNOWN = (
    'The modes are "full", "skip_attn", "skip_mlp", "skip_layer" and "base"; of one head "vanilla:q:3" (its q, k or v alone reads without the '
    'vector) and "only:q:3" (of all q, k and v it alone reads with it)'
)


@dataclass(frozen=True)
class PathMode:
    """A mode of path patching, after the table of the paths in arXiv 2509.06608.

    | mode | q, k, v read | the MLP reads | residual stream |
    |---|---|---|---|
    | full | steered | steered | steered |
    | skip_attn | vanilla | steered | steered |
    | skip_mlp | steered | vanilla | steered |
    | skip_layer | vanilla | vanilla | steered |
    | base | vanilla | vanilla | vanilla |
    | vanilla:q:3 | steered, but q of head 3 | steered | steered |
    | only:q:3 | vanilla, but q of head 3 | steered | steered |

    Where the MLP comes after attention, it reads the block's input plus what attention gave: in skip_attn the steered input plus
    attention's vanilla output; in skip_layer the vanilla input plus that; in skip_mlp the vanilla input plus attention's steered output.
    skip_mlp is not in the paper; it completes the table.

    Of grouped-query attention, heads of q count query heads, heads of k and v key-value heads.

    Raises:
        ValueError: There is no such mode, or a head is no whole number from 0 on.
    """

    kind: Literal["full", "skip_attn", "skip_mlp", "skip_layer", "base", "vanilla", "only"]
    """The first word of the mode's name."""
    part: Part | None = None
    """Of which projection one head is patched; None in the modes of the whole block."""
    head: int | None = None
    """Which head of it, from 0; None in the modes of the whole block."""

    def __post_init__(self) -> None:
        of_head = self.kind in ("vanilla", "only")
        if not of_head and (self.kind not in WHOLE or (self.part, self.head) != (None, None)):
            raise ValueError(
                f"There is no path mode {self.kind!r} with part {self.part!r} and head {self.head!r}. {_KNOWN}."
            )
        if of_head and self.part not in PARTS:
            raise ValueError(f'There is no part {self.part!r} of attention. Give "q", "k" or "v".')
        number = whole_number(self.head)
        if of_head and (number is None or number < 0):
            raise ValueError(
                f"There is no head {self.head!r}. Give a whole number from 0 on, as in {self.kind}:{self.part}:3."
            )
        object.__setattr__(self, "head", number if of_head else None)

    @classmethod
    def full(cls) -> "PathMode":
        """Everything reads the vector: plain steering."""
        return cls("full")

    @classmethod
    def skip_attn(cls) -> "PathMode":
        """Attention reads without the vector."""
        return cls("skip_attn")

    @classmethod
    def skip_mlp(cls) -> "PathMode":
        """The MLP reads without the vector."""
        return cls("skip_mlp")

    @classmethod
    def skip_layer(cls) -> "PathMode":
        """Neither reads it: the same as adding the vector after the block."""
        return cls("skip_layer")

    @classmethod
    def base(cls) -> "PathMode":
        """No vector at all."""
        return cls("base")

    @classmethod
    def vanilla(cls, part: Part, head: int) -> "PathMode":
        """One head's q, k or v reads without the vector, everything else with it."""
        return cls("vanilla", part, head)

    @classmethod
    def only(cls, part: Part, head: int) -> "PathMode":
        """Of all q, k and v one head's alone reads with the vector; the MLP does, too."""
        return cls("only", part, head)

    @classmethod
    def parse(cls, value: Any) -> "PathMode":
        """Read a mode's name, such as "skip_attn" or "only:q:3"; a PathMode is given back.

        Raises:
            ValueError: There is no such mode.
        """
        if isinstance(value, PathMode):
            return value
        words = value.split(":") if isinstance(value, str) else []
        if len(words) == 1 and words[0] in WHOLE:
            return cls(words[0])  # pyright: ignore[reportArgumentType]
        if len(words) == 3 and words[0] in ("vanilla", "only") and words[1] in PARTS and words[2].isdecimal():
            return cls(words[0], words[1], int(words[2]))  # pyright: ignore[reportArgumentType]
        raise ValueError(f"There is no path mode {value!r}. {_KNOWN}.")

    @property
    def name(self) -> str:
        """How `parse` reads it."""
        return self.kind if self.part is None else f"{self.kind}:{self.part}:{self.head}"

    @property
    def of_head(self) -> bool:
        """Whether it is of one head."""
        return self.part is not None

    @property
    def attention_reads(self) -> bool:
        """Whether q, k and v read the vector, except for the one head of a mode that is of one."""
        return self.kind in _ATTENTION_READS or self.kind == "vanilla"

    @property
    def mlp_reads(self) -> bool:
        """Whether the MLP reads the vector."""
        return self.kind in _MLP_READS or self.of_head

    def __str__(self) -> str:
        return self.name


def head_modes(heads: dict[Part, int]) -> tuple[PathMode, ...]:
    """Give both modes of every head.

    Args:
        heads: How many heads each projection has.
    """
    return tuple(
        make(part, head)
        for make in (PathMode.vanilla, PathMode.only)
        for part in PARTS
        for head in range(heads[part])
    )
