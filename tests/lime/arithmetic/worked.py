"""An independent reading of arithmetic texts: Python's own parser, and a search for the next step by trying all."""

import ast
import re
from fractions import Fraction

import torch
from torch import nn

from sae_lens_ext.lime.arithmetic.examples import ArithmeticExamples

PYTHON = str.maketrans({"−": "-", "×": "*", "÷": "/"})


def value(expression: str, modulus: int) -> int | None:
    """Evaluate with Python's precedence, over fractions at each single operation; None where zero is divided by."""

    def of(node: ast.expr) -> int | None:
        if isinstance(node, ast.Constant):
            return int(str(node.value))
        assert isinstance(node, ast.BinOp)
        left, right = of(node.left), of(node.right)
        if left is None or right is None:
            return None
        if isinstance(node.op, ast.Div):
            # a fraction's value modulo a prime: the number that, times the denominator, gives the numerator
            return next((n for n in range(modulus) if right and (n * right - left) % modulus == 0), None)
        exact = {ast.Add: Fraction(left + right), ast.Sub: Fraction(left - right)}.get(
            type(node.op), Fraction(left * right)
        )
        return int(exact) % modulus

    return of(ast.parse(expression.translate(PYTHON), mode="eval").body)


def next_line(line: str, modulus: int) -> str:
    """Do one operation by regular expressions: in the first parenthesis without one in it, × ÷ before + −, from the left."""
    enclosed = re.search(r"\([^()]*\)", line)
    part = enclosed.group() if enclosed else line
    operation = re.search(r"\d+[×÷]\d+", part) or re.search(r"\d+[+−]\d+", part)
    assert operation is not None
    new = part[: operation.start()] + str(value(operation.group(), modulus)) + part[operation.end() :]
    new = re.sub(r"^\((\d+)\)$", r"\1", new)
    return line.replace(part, new, 1) if enclosed else new


class Scripted(nn.Module):
    """A model that goes on as a rule of its own says: with the token that `next_token` gives for a text."""

    def __init__(self, next_token, size: int) -> None:
        super().__init__()
        self.next_token, self.size = next_token, size
        self.dummy = nn.Parameter(torch.zeros(1))
        self.rows_read = 0

    def forward(self, tokens: torch.Tensor, return_type: str = "logits", attention_mask=None) -> torch.Tensor:
        assert return_type == "logits"
        assert attention_mask is None or bool(attention_mask.all())  # no padding
        self.rows_read += len(tokens)
        logits = torch.zeros(*tokens.shape, self.size)
        for i, row in enumerate(tokens.tolist()):
            for j in range(len(row)):
                logits[i, j, self.next_token(row[: j + 1])] = 1.0
        return logits


def oracle(examples: ArithmeticExamples, mistakes: dict[int, int] | None = None) -> Scripted:
    """A model that knows the references by heart, but for the token at one position of some, where it writes 0 and then the end."""
    known: dict[tuple[int, ...], int] = {}
    end = examples.vocabulary.end
    for i, sequence in enumerate(examples.sequences):
        row = sequence.tolist()
        for j in range(1, len(row)):
            known[tuple(row[:j])] = row[j]
        if i in (mistakes or {}):
            at = (mistakes or {})[i]
            known[tuple(row[:at])] = 0
            known[(*row[:at], 0)] = end
    return Scripted(lambda row: known.get(tuple(row), end), examples.vocabulary.size)
