"""Which tokens are selected, against the definition, in passes of any size; and what is no position or phase."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.steering.token_pass import TokenPass
from sae_lens_ext.steering.token_selection import TokenSelection
from tests.steering.naive import is_selected

BATCH, PROMPT, LENGTH = 2, 5, 9
ends = st.one_of(st.none(), st.integers(-7, 10))
positions_given = st.one_of(
    st.none(),
    st.integers(-7, 10),
    st.builds(slice, ends, ends, st.sampled_from([None, 1, 2, 3])),
    st.lists(st.integers(-7, 10), min_size=1, max_size=4),
    st.lists(st.lists(st.booleans(), min_size=PROMPT, max_size=PROMPT), min_size=BATCH, max_size=BATCH).map(
        torch.tensor
    ),
)
masks = st.one_of(
    st.none(),
    st.lists(st.lists(st.booleans(), min_size=PROMPT, max_size=PROMPT), min_size=BATCH, max_size=BATCH)
    .map(torch.tensor)
    .filter(lambda mask: bool(mask.any(dim=1).all())),
)
phases_given = st.sampled_from([("prompt", "generation"), ("prompt",), ("generation",)])


@given(positions_given, phases_given, masks, st.sets(st.integers(1, LENGTH - 1)))
def test_a_sequence_in_any_pieces_is_selected_as_by_definition(
    positions: Any, phases: Any, real: torch.Tensor | None, cuts: set[int]
) -> None:
    selection = TokenSelection("AddVector", positions, phases)
    edges = [0, *sorted(cuts), LENGTH]
    pieces = [
        selection.mask(TokenPass(start, end - start, prompt=PROMPT, real=real), BATCH)
        for start, end in itertools.pairwise(edges)
    ]
    expected = [
        [is_selected(positions, phases, row, column, PROMPT, real) for column in range(LENGTH)]
        for row in range(BATCH)
    ]
    assert torch.cat(pieces, dim=1).tolist() == expected


@pytest.mark.parametrize(
    ("positions", "says"),
    [
        (True, "positions = True"),
        ([1, False], "the position False of type bool"),
        ([], r"positions = \[\]"),
        ("all", "positions = 'all'"),
        (1.5, "positions = 1.5"),
        (slice(0, 4, -1), "a step of at least 1"),
        (slice(0, 4, 0), "a step of at least 1"),
        (slice(0.5, 4), "a slice of whole numbers"),
        (torch.tensor([1.0, 2.0]), "Give a mask"),
        (torch.tensor([True]), "Give a mask"),
        (torch.tensor([[1, 2]]), r"a tensor of the shape \(1, 2\) and type torch.int64"),
        (torch.tensor([], dtype=torch.long), "whole numbers"),
        (np.array([[True, False]]), "an array of the shape .* Give a mask as a tensor"),
        (np.bool_(True), "positions = "),
    ],
    ids=str,
)
def test_what_is_no_position_is_refused(positions: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TokenSelection("AddVector", positions, ("prompt",))


@pytest.mark.parametrize("phases", ["prompt", (), None, ("prompt", "answer")], ids=str)
def test_what_is_no_phase_is_refused(phases: Any) -> None:
    with pytest.raises(ValueError, match=r'"prompt".* "generation"'):
        TokenSelection("AddVector", None, phases)


def test_a_mask_of_another_prompt_is_refused() -> None:
    selection = TokenSelection("AddVector", torch.ones(2, 4, dtype=torch.bool), ("prompt",))
    with pytest.raises(ValueError, match=r"Give a mask \[batch, prompt\] = \[2, 5\]"):
        selection.mask(TokenPass(0, 5, prompt=5), 2)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (np.int64(3), 3),
        (torch.tensor(-1), -1),
        (np.array(2), 2),
        (torch.tensor([1, -2]), (1, -2)),
        (np.array([0, 4], dtype=np.int32), (0, 4)),
        ([np.int64(1), torch.tensor(2)], (1, 2)),
        (range(2, 4), (2, 3)),
        (slice(np.int64(1), None, torch.tensor(2)), slice(1, None, 2)),
    ],
    ids=str,
)
def test_whole_numbers_of_any_kind_are_positions(given: Any, meant: Any) -> None:
    selection = TokenSelection("AddVector", given, ("prompt", "generation"))
    assert selection.positions == meant and type(selection.positions) is type(meant)
    tokens = TokenPass(0, 7, prompt=5)
    expected = TokenSelection("AddVector", meant, ("prompt", "generation"))
    assert selection.key == expected.key
    assert torch.equal(selection.mask(tokens, 2), expected.mask(tokens, 2))
