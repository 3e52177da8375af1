"""A site is known by its hook, whatever its name."""

import pytest

from sae_lens_ext.language_model import same_hook


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("blocks.10.hook_resid_post", "blocks.10.hook_out", True),
        ("blocks.10.hook_resid_pre", "blocks.10.hook_in", True),
        ("blocks.3.hook_attn_out", "blocks.3.attn.hook_out", True),
        ("blocks.3.hook_mlp_out", "blocks.3.mlp.hook_out", True),
        ("blocks.1.hook_out", "blocks.10.hook_out", False),
        ("blocks.1.hook_resid_pre", "blocks.1.hook_resid_post", False),
        ("blocks.3.attn.hook_z", "blocks.3.attn.hook_z", True),
        (None, "blocks.3.hook_out", True),
    ],
)
def test_same_hook(first: str | None, second: str | None, same: bool) -> None:
    assert same_hook(first, second) is same
    assert same_hook(second, first) is same
