"""One completion as text, every token on a ground coloured by how its probability was changed."""

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sae_lens_ext.steering.reading.token_shift.shifts import NO_TOKEN

if TYPE_CHECKING:
    from sae_lens_ext.steering.reading.token_shift.result import TokenShift

GAIN, LOSS = (230, 138, 60), (86, 160, 220)
"""Red, green and blue of the largest |Δp|, up and down: orange and blue, which colour-blind people tell apart and on which black can be read."""
_PROMPT_TOKENS = 60
_SMALLEST_LIMIT = 1e-6
_CSS = """
body { font: 16px/1.5 system-ui, sans-serif; background: #fff; color: #1b1b1b; max-width: 60rem; margin: 1.5rem auto; padding: 0 1rem; }
.token-shift { color: #1b1b1b; color-scheme: light; background: #fff; }
.token-shift p.text { font: .95rem/2 ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
.token-shift .prompt { color: #6b6b6b; }
.token-shift .text b { display: inline-block; line-height: 1.35; white-space: pre; font-weight: 400; padding: .14rem .06rem; margin-right: 2px; border-radius: 3px; border-bottom: 2px solid transparent;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.token-shift .text b.boosted { border-bottom-color: #1b1b1b; }
.token-shift i { color: #767676; font-style: normal; }
.token-shift .legend { display: flex; flex-wrap: wrap; gap: .6rem; align-items: center; font-size: .85rem; color: #444; }
.token-shift .bar { width: 12rem; height: .8rem; border: 1px solid #ccc; }
.token-shift .note { font-size: .85rem; color: #555; }
"""


@dataclass(frozen=True)
class NamedToken:
    """A generated token, and what there is to say of it."""

    text: str
    """As it was decoded."""
    delta: float
    """Its Δp."""
    is_boosted: bool
    """Whether it is the token that the steering boosts most there."""
    facts: tuple[str, ...]
    """Lines of text for the reader who points at it."""

    @property
    def shown(self) -> str:
        """The token with its spaces and newlines visible, as plain text."""
        return visible(self.text)


def named_tokens(result: "TokenShift", row: int) -> list[NamedToken]:
    """Give the generated tokens of a text in their order."""
    own, found = result.shifts, list[NamedToken]()
    for i in (own.row == row).nonzero()[:, 0].tolist():
        token, delta, p = int(own.token[i]), float(own.token_delta[i]), float(own.token_p_base[i])
        gains = [
            f"{visible(result.vocabulary[b])} {d:+.3f} ({q:.3f} → {q + d:.3f})"
            for b, d, q in zip(
                own.boosted[i].tolist(),
                own.boosted_delta[i].tolist(),
                own.boosted_p_base[i].tolist(),
                strict=True,
            )
            if b != NO_TOKEN
        ]
        facts = (
            f"{visible(result.vocabulary[token])}, generated token {int(own.offset[i])}: p {p:.3f} → {p + delta:.3f}, Δp {delta:+.3f}",
            f"most boosted: {'; '.join(gains) or 'none'}",
            f"the base's first choice: {visible(result.vocabulary[int(own.base_top[i])])}",
            f"KL {float(own.kl[i]):.3g} nats, total variation {float(own.total_variation[i]):.3f}",
        )
        found.append(NamedToken(result.vocabulary[token], delta, token == int(own.boosted[i, 0]), facts))
    return found


def limit(result: "TokenShift") -> float:
    """Give the |Δp| of the strongest colour: the largest of a generated token in the whole result, so that its texts compare."""
    return max(_SMALLEST_LIMIT, float(result.shifts.token_delta.abs().max()))


def strip_page(result: "TokenShift", row: int) -> str:
    """Give the page, see `TokenShift.strip_html`."""
    top = limit(result)
    prompt = result.sequences.tokens[row][: result.sequences.prompt_lengths[row]].tolist()
    cut = "… " if len(prompt) > _PROMPT_TOKENS else ""
    before = cut + "".join(result.vocabulary[token] for token in prompt[-_PROMPT_TOKENS:])
    tokens = "".join(_span(token, top) for token in named_tokens(result, row))
    model = html.escape(str(result.provenance.get("model_name")))
    hooks = html.escape(", ".join(result.provenance.get("hook_names", ())))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Token shift of text {row}</title>
<style>{_CSS}</style>
</head>
<body>
<section class="token-shift">
<p class="legend"><span>Δp of each generated token: −{top:.3g}</span><span class="bar" style="background: linear-gradient(to right, {rgb(LOSS)}, #fff, \
{rgb(GAIN)})"></span><span>{top:+.3g}</span><span><b style="border-bottom: 2px solid">underlined</b>: it is the token that is boosted most</span></p>
<p class="text"><span class="prompt">{_marked(before)}</span>{tokens}</p>
<p class="note">Text {row}; steered at {hooks} of {model}. Grey: the prompt. Point at a token for its numbers. ↵ is a newline, ⇥ a tab, · a space that begins or \
fills a token.</p>
</section>
</body>
</html>
"""


def rgb(colour: tuple[int, int, int]) -> str:
    """Give a colour as CSS and plotly read it."""
    return f"rgb({', '.join(map(str, colour))})"


def visible(token: str) -> str:
    """Make what is not seen seen: newlines, tabs, control characters, and the spaces at either end."""
    if not token:
        return "∅"
    core = token.strip(" ")
    start = len(token) - len(token.lstrip(" "))
    spaced = "·" * start + core + "·" * (len(token) - start - len(core))
    pictures = {"\n": "↵", "\t": "⇥"}
    return "".join(
        pictures.get(
            c, chr(0x2400 + ord(c)) if ord(c) < 32 else c
        )  # Unicode's pictures of control characters
        for c in spaced
    )


def _span(token: NamedToken, top: float) -> str:
    """Give a token as HTML; after the mark of a newline the line does end."""
    colour, strength = GAIN if token.delta > 0 else LOSS, min(1.0, abs(token.delta) / top)
    ground = ", ".join(str(round(255 - (255 - c) * strength)) for c in colour)
    title = "&#10;".join(html.escape(fact) for fact in token.facts)
    boosted = ' class="boosted"' if token.is_boosted else ""
    return f'<b{boosted} style="background: rgb({ground})" title="{title}">{_marked(token.shown)}</b>{_ends(token.text)}'


def _ends(text: str) -> str:
    return "\n" * text.count("\n")


def _marked(text: str) -> str:
    """Escape text, and show the marks of what is not seen in grey."""
    return "".join(f"<i>{c}</i>" if c in "·↵⇥∅" else html.escape(c) for c in text)
