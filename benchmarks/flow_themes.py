"""Themes whose features the benchmarks of feature flow look at, and how a theme's feature is chosen: by what it fires on, not by what it does.

A theme's words are two lists without a word in common: one chooses the feature, the other measures behaviour.
"""

import re

from flow_saes import CACHE, TEXTS, flow_saes, hook

from sae_lens_ext import TopActivations, embedded_texts, load_embedded_model, top_activations
from sae_lens_ext.architectures.identity import weights_fingerprint

SEED_LAYER = 8
CHOOSING = {
    "astronomy": "planet star galaxy moon solar mars comet",
    "music": "music musical composer singer guitar opera",
    "war": "war army military soldiers navy invasion",
    "biology": "species genus plant animals birds leaves",
    "cooking": "butter flour sugar oven sauce salt",
    "scripture": "lord thy unto israel saith",
    "code": "self def none raise except",
    "politics": "election party parliament president",
    "film": "film movie directed actor drama",
    "geography": "river mountain island lake sea",
}
"""Words that choose a theme's feature."""
MEASURING = {
    "astronomy": "planets stars sun moons orbit earth jupiter telescope asteroid",
    "music": "song songs album albums band bands recorded concert piano orchestra",
    "war": "wars battle forces troops force fought defeated attack armies killed",
    "biology": "family plants animal bird fish insects native flowers genera habitat",
    "cooking": "cup oil water minutes heat cook stir mix bake pan bowl",
    "scripture": "god thou thee shall king son hath ye",
    "code": "return import class true print args",
    "politics": "minister government elected political vote council senate governor democratic republic",
    "film": "films movies starring television series actress comedy director cinema",
    "geography": "rivers mountains islands lakes coast ocean desert peninsula valley bay gulf",
}
"""Words that measure a theme in a text."""
THEMES = tuple(CHOOSING)
N_CONTEXTS, MAX_TOKENS = 10, 65_536
LETTERS = 3
"""A context counts if the feature is most active at so many letters: not at digits, such as years in lists of albums."""
_WORD = re.compile(r"[a-z]+")


def read_top_activations() -> TopActivations:
    """Give what every feature of every site fires on, on held-out documents of the four texts; kept in the cache, for these SAEs."""
    path, saes = CACHE / "flow_top_activations.json", flow_saes()
    if path.is_file():
        found = TopActivations.load(path)
        own = {name: weights_fingerprint(sae) for name, sae in saes.items()}
        if found.provenance["sae_fingerprints"] == own:
            return found
    texts = {name: embedded_texts(name, split="test") for name in TEXTS}
    top_activations(
        load_embedded_model("bridge"),
        saes,
        texts,
        n_contexts=N_CONTEXTS,
        max_tokens=MAX_TOKENS // len(texts),
        autocast=True,
    ).save(path)
    return TopActivations.load(path)


def share_of_theme(tops: TopActivations, hook_name: str, index: int, theme: str) -> float:
    """Give the share of words that are a theme's choosing ones in the top contexts that a feature fires on a word of; 0 with too few contexts."""
    contexts = tops.contexts(hook_name, index, N_CONTEXTS)
    if len(contexts) < N_CONTEXTS:
        return 0.0
    words = CHOOSING[theme].split()
    hits, total = 0, 0
    for context in contexts:
        found = _WORD.findall("".join(context.tokens).lower())
        total += len(found)
        if (
            len(context.tokens[context.peak].strip()) >= LETTERS
            and context.tokens[context.peak].strip().isalpha()
        ):
            hits += sum(word in words for word in found)
    return hits / max(1, total)


def theme_features(tops: TopActivations, layer: int = SEED_LAYER) -> dict[str, tuple[str, int]]:
    """Give each theme the residual feature of a layer whose top contexts are fullest of its words."""
    name = hook(layer, "residual")
    features = range(flow_saes()[name].cfg.d_sae)
    return {
        theme: (name, max(features, key=lambda i, t=theme: share_of_theme(tops, name, i, t)))
        for theme in THEMES
    }


if __name__ == "__main__":
    found = read_top_activations()
    for theme, (name, index) in theme_features(found).items():
        share = share_of_theme(found, name, index, theme)
        print(
            f"{theme}: {name}:{index} ({share:.0%}), fires on {found.firing_rate(name, index):.2%} of tokens"
        )
        for context in found.contexts(name, index, 4):
            print("   ", repr("".join(context.tokens)), "peak", repr(context.tokens[context.peak]))
