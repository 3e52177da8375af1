"""What may stand where an argument is due, whatever it is, and which of it each kind of argument takes."""

import math
from typing import Any

import numpy as np
import torch

VALUES: dict[str, Any] = {
    "0": 0,
    "-1": -1,
    "True": True,
    "0.5": 0.5,
    "2": 2,
    "NaN": math.nan,
    "inf": math.inf,
    "numpy 2": np.int64(2),
    "numpy 0.5": np.float32(0.5),
    "tensor 2": torch.tensor(2),
    "huge": 10**30,
    "-huge": -(10**30),
    "1e300": 1e300,
    "'2'": "2",
    "'nonsense'": "nonsense",
    "bytes": b"x",
    "None": None,
    "[]": [],
    "{}": {},
    "set()": set(),
    "[[]]": [[]],
    "[None]": [None],
    "['']": [""],
    "['w1']": ["w1"],
    "[script, NUL]": ["<script>\0"],
    "[1]": [1],
    "[-1]": [-1],
    "[True]": [True],
    "(NaN,)": (math.nan,),
    "object": object(),
    "function": lambda *_: 0,
    "complex": 1j,
    "empty tensor": torch.zeros(0),
    "tensor of NaN": torch.full((16,), math.nan),
    "tensor on meta": torch.zeros(16, device="meta"),
}
"""By name. Whatever an argument is, it gets all of them."""

Kind = frozenset[str]
"""Names of the values that a kind of argument may take; all others must be refused."""


def kind(*names: str) -> Kind:
    """Give the names as a kind, each checked to be one."""
    assert set(names) <= set(VALUES), set(names) - set(VALUES)
    return frozenset(names)


NONE = kind("None")
NOTHING = kind()
COUNT = kind("2", "numpy 2", "tensor 2", "huge")
SEED = COUNT | kind("0")
REAL = kind("0", "-1", "0.5", "2", "numpy 2", "numpy 0.5", "tensor 2", "huge", "-huge", "1e300")
POSITIVE = REAL - kind("0", "-1", "-huge")
NOT_NEGATIVE = POSITIVE | kind("0")
SHARE = kind("0", "0.5", "numpy 0.5", "tensor 2", "2")
FLAG = kind("True")
POSITIONS = kind("0", "-1", "2", "numpy 2", "tensor 2", "huge", "-huge", "None", "[1]", "[-1]")
NAME = kind("'2'", "'nonsense'")
TEXTS = kind("['']", "['w1']", "[script, NUL]")
SEQUENCES = kind("['w1']", "[script, NUL]")
TOKEN_IDS = kind("0", "2", "numpy 2", "tensor 2", "huge", "None", "[]", "{}", "set()", "[1]", "empty tensor")
FUNCTION = kind("function")
"""A reward may be any function; what it gives is checked when it is called."""
