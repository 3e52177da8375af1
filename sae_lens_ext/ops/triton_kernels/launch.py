"""How a [B, d] computation is cut up among the programs of a kernel."""

from typing import Any

import torch

# One warp has eight columns a thread: 128-bit loads even of bfloat16, and sums over columns that need no barrier
# between warps. Tokens run fastest, so the programs at work share a block of columns, and the narrower it is, the
# more of that slice of the decoder and of its gradient the L2 cache holds: 64 MiB each, at F = 65,536 in float32.
# The common widths (768, 2304, 4096) are multiples of it, so no lane idles.
WIDEST = 256
WARPS = 1


def blocks(d: int) -> tuple[int, int]:
    """Cut up d columns.

    Returns:
        How many blocks there are, and the columns in each, a power of two.
    """
    width = min(1 << (d - 1).bit_length(), WIDEST)
    return -(-d // width), width


def _launch(kernel: Any, n_tokens: int, d: int, *arguments: Any) -> None:
    """Run a kernel with one program per token and block of columns.

    Args:
        kernel: Takes `arguments`, d and WIDTH, the columns per block.
        n_tokens: B.
        d: Columns.
        *arguments: Tensors and numbers, first a tensor; the tensors to be written must be contiguous.
    """
    n_blocks, width = blocks(d)
    laid_out = [a.contiguous() if isinstance(a, torch.Tensor) else a for a in arguments]
    with torch.cuda.device_of(laid_out[0]):
        # Of a grid's axes the first varies fastest, and it alone may have more than 65,535 programs.
        kernel[n_tokens, n_blocks](*laid_out, d, WIDTH=width, num_warps=WARPS)


# A compiled training step leaves its graph here instead of tracing into the launch. (The decorator is untyped.)
launch: Any = torch.compiler.disable(_launch)
