"""Triton kernels for the sparse decoder and the loss over budgets, used on GPUs in place of the PyTorch forms.

They need no extra: a CUDA build of torch for Linux brings the triton it was made with. Only the modules that
hold kernels import triton, and only when a tensor on a GPU asks for them; see `availability`.

The programs of a launch are the pairs (token, block of columns), tokens fastest. All sums run in float32.
Sums over tokens (a decoder row's gradient) are added atomically, in no fixed order; sums over column blocks
are written as partial sums and added in order afterwards.
"""
