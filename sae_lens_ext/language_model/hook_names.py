"""Whether two hook names mean one site of the model."""

import re

_CANONICAL_SITES = {
    "hook_resid_pre": "hook_in",
    "hook_resid_post": "hook_out",
    "hook_attn_out": "attn.hook_out",
    "hook_mlp_out": "mlp.hook_out",
}


def same_hook(first: str | None, second: str | None) -> bool:
    """Tell whether two hook names mean one site; an unknown name (None) contradicts nothing.

    HookedTransformer's names and TransformerBridge's canonical ones count as the same:
    `blocks.10.hook_resid_post` is `blocks.10.hook_out`.
    """
    return first is None or second is None or _canonical(first) == _canonical(second)


def _canonical(hook_name: str) -> str:
    site = re.fullmatch(r"(blocks\.\d+\.)(\w+)", hook_name)
    return site[1] + _CANONICAL_SITES.get(site[2], site[2]) if site else hook_name
