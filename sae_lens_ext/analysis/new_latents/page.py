"""The page of a NewLatents: each new latent's contexts beside those of the base's most similar latent."""

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sae_lens_ext.analysis.new_latents.result import LatentPair, LatentUse, NewLatents
    from sae_lens_ext.analysis.top_contexts import Context

# Orange and sky blue of Okabe and Ito, which colour-blind people tell apart and on which black reads at full strength.
# How strong a token's shade is, says --a; which column it is in, the heading.
SECTION_CSS = """
.new-latents { --new: 230 159 0; --base: 86 180 233; color: #1b1b1b; color-scheme: light; }
.new-latents article { border-top: 2px solid #1b1b1b; margin-top: 2.2rem; padding-top: .5rem; }
.new-latents h3 { font-size: 1.1rem; margin: 0 0 .5rem; }
.new-latents h4 { font-size: 1rem; margin: 0; padding-left: .5rem; border-left: .5rem solid rgb(var(--shade)); }
.new-latents .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem; }
.new-latents .new { --shade: var(--new); }
.new-latents .base { --shade: var(--base); }
.new-latents .pair > section { min-width: 0; }
.new-latents .facts { color: #555; font-size: .85rem; margin: .25rem 0 .6rem; }
.new-latents figure { margin: 0 0 .6rem; }
.new-latents figcaption { color: #555; font-size: .75rem; }
.new-latents .context { font: .8rem/1.7 ui-monospace, Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; unicode-bidi: isolate; background: #f8f8f8; padding: .3rem .5rem; margin: 0; }
.new-latents .context span { padding: .12rem .06rem; border-radius: 2px;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.new-latents .context .on { background: rgb(var(--shade) / var(--a)); }
.new-latents .context .peak { outline: 2px solid #1b1b1b; outline-offset: -1px; font-weight: 600; }
.new-latents .context i { color: #767676; font-style: normal; }
.new-latents .note { color: #555; font-size: .9rem; }
.new-latents a { color: #0b5cad; }
"""

_PAGE_CSS = """
body { font: 16px/1.5 system-ui, sans-serif; background: #fff; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; }
"""

_FAINTEST = 0.12  # of the strongest shade: below, a token that fires would look like one that does not


def html_page(result: "NewLatents", title: str) -> str:
    """Give one self-contained page: a heading, and `html_section`."""
    title = html.escape(title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_PAGE_CSS}{SECTION_CSS}</style>
</head>
<body>
<h1>{title}</h1>
{html_section(result)}
</body>
</html>
"""


def html_section(result: "NewLatents") -> str:
    """Give the fragment for a page's body; it is styled by SECTION_CSS."""
    made = result.provenance
    counted = made.get("n_tokens", {})
    read = ", ".join(
        html.escape(text) + (f" ({counted[text]:,} tokens)" if text in counted else "")
        for text in result.texts
    )
    where = f"<code>{html.escape(str(made.get('model_name')))}</code>"
    where += f" at <code>{html.escape(str(made.get('hook_name')))}</code>"
    pairs = "\n".join(_pair(result.domain, pair) for pair in result.pairs)
    return f"""<section class="new-latents">
<p class="note">Each latent of the domain “{html.escape(result.domain)}” beside the base’s latent with the most similar
decoder row, with the contexts in which each is strongest. Shade: activation relative to the latent’s maximum (point at
a token for its value). Outlined: the strongest token. ↵ is a newline, ⇥ a tab, · a space in a token
of white space.<br>
Read: {read}; {where}.</p>
{pairs}
</section>"""


def _pair(domain: str, pair: "LatentPair") -> str:
    name = html.escape(domain)
    return f"""<article>
<h3>{name} {pair.new.index} <small>and base {pair.base.index}, cosine {pair.cosine:.2f}</small></h3>
<div class="pair">
{_use("new", f"New: {name} {pair.new.index}", pair.new)}
{_use("base", f"Base: {_linked(str(pair.base.index), pair.base.url)}", pair.base)}
</div>
</article>"""


def _use(side: str, heading: str, use: "LatentUse") -> str:
    rates = ", ".join(f"{_percent(rate)} of {html.escape(text)}" for text, rate in use.firing_rates.items())
    shown = "\n".join(_context(context, use.max_activation) for context in use.contexts)
    return f"""<section class="{side}">
<h4>{heading}</h4>
<p class="facts">flat index {use.flat_index} · fires on {rates} · maximum {use.max_activation:.3g}</p>
{shown or '<p class="facts"><strong>Never fires on these texts.</strong></p>'}
</section>"""


def _context(context: "Context", maximum: float) -> str:
    tokens = "".join(
        _token(token, activation, maximum, is_peak=i == context.peak)
        for i, (token, activation) in enumerate(zip(context.tokens, context.activations, strict=True))
    )
    caption = f"{html.escape(context.text)} · {context.activations[context.peak]:.3g}"
    return f'<figure><figcaption>{caption}</figcaption><p class="context">{tokens}</p></figure>'


def _token(token: str, activation: float, maximum: float, *, is_peak: bool) -> str:
    classes = ["on"] * (activation != 0) + ["peak"] * is_peak
    attributes = f' class="{" ".join(classes)}"' if classes else ""
    if activation != 0:
        strength = min(1.0, max(_FAINTEST, activation / maximum))
        attributes += f' style="--a:{strength:.2f}"'
    # The space before a word stays outside the shade: at the end of a line it would be an empty box.
    space = " " if token.startswith(" ") and not token.isspace() else ""
    shown = _visible(token.removeprefix(space))
    return f'{space}<span title="{activation:.3g}"{attributes}>{shown}</span>'


def _visible(token: str) -> str:
    """Escape a token and make what is not seen seen: newlines, tabs, control characters, spaces alone."""
    if not token:
        return "<i>∅</i>"
    blank = token.isspace()
    shown = ""
    for character in token:
        if character == "\n":
            shown += "<i>↵</i>\n"
        elif character == "\t":
            shown += "<i>⇥</i>\t"
        elif ord(character) < 32:
            shown += f"<i>{chr(0x2400 + ord(character))}</i>"  # Unicode's pictures of control characters
        elif character == " " and blank:
            shown += "<i>·</i>"
        else:
            shown += html.escape(character)
    return shown


def _linked(text: str, url: str | None) -> str:
    return (
        f'<a href="{html.escape(url)}">{html.escape(text)}</a>'
        if url and url.startswith(("https://", "http://"))
        else html.escape(text)
    )


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"
