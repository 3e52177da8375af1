import pytest

from sae_lens_ext.steering.reading.path_patching import PathMode
from sae_lens_ext.steering.reading.path_patching.modes import WHOLE, head_modes


@pytest.mark.parametrize("name", [*WHOLE, "vanilla:q:3", "only:v:0"])
def test_a_mode_is_read_from_its_name(name: str):
    mode = PathMode.parse(name)
    assert mode.name == str(mode) == name
    assert PathMode.parse(mode) is mode
    assert PathMode.parse(name) == mode


def test_constructors_and_names_agree():
    assert PathMode.full() == PathMode.parse("full")
    assert PathMode.skip_attn() == PathMode.parse("skip_attn")
    assert PathMode.skip_mlp() == PathMode.parse("skip_mlp")
    assert PathMode.skip_layer() == PathMode.parse("skip_layer")
    assert PathMode.base() == PathMode.parse("base")
    assert PathMode.vanilla("k", 2) == PathMode.parse("vanilla:k:2")
    assert PathMode.only("q", 0) == PathMode.parse("only:q:0")


@pytest.mark.parametrize(
    ("name", "attention", "mlp"),
    [
        ("full", True, True),
        ("skip_attn", False, True),
        ("skip_mlp", True, False),
        ("skip_layer", False, False),
        ("base", False, False),
        ("vanilla:q:3", True, True),
        ("only:q:3", False, True),
    ],
)
def test_what_reads_is_the_table_of_the_method(name: str, attention: bool, mlp: bool):
    mode = PathMode.parse(name)
    assert (mode.attention_reads, mode.mlp_reads) == (attention, mlp)
    assert mode.of_head is (":" in name)


@pytest.mark.parametrize(
    "name",
    [
        "skip",
        "vanilla",
        "vanilla:q",
        "only:z:1",
        "only:q:-1",
        "full:q:1",
        "only:q:1:2",
        "only:q:x",
        3,
        None,
        "",
    ],
)
def test_an_unknown_mode_is_refused_with_the_modes(name: object):
    with pytest.raises(ValueError, match=r'There is no path mode .*"full", "skip_attn", .*"only:q:3"'):
        PathMode.parse(name)


def test_a_mode_that_is_none_cannot_be_made():
    with pytest.raises(ValueError, match="There is no path mode 'full' with part 'q' and head 1"):
        PathMode("full", "q", 1)
    with pytest.raises(ValueError, match='no part \'z\' of attention. Give "q", "k" or "v"'):
        PathMode("only", "z", 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="There is no head -1"):
        PathMode.only("q", -1)
    with pytest.raises(ValueError, match="There is no head None"):
        PathMode("vanilla", "q")


def test_every_head_has_two_modes():
    names = [mode.name for mode in head_modes({"q": 2, "k": 1, "v": 1})]
    assert names == [
        f"{kind}:{head}" for kind in ("vanilla", "only") for head in ("q:0", "q:1", "k:0", "v:0")
    ]
