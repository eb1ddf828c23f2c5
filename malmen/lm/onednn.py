"""Single-precision matrix products by oneDNN on processors where it beats torch's default.

On a CPU torch multiplies matrices with MKL, which uses the widest vector instructions on its
maker's processors only; oneDNN, which torch also carries, uses them wherever there are any. On a
processor of another maker the products of a language model took about half the time
(``benchmarks/onednn.py``). Double precision, which the normal equation needs, stays with MKL:
oneDNN has none.
"""

import os
import warnings
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["is_faster", "route_products"]

_WORTH_IT = 2**16
"""Multiplications from which on the way through Python costs less than it saves."""

_MANY_ROWS = 8
"""Rows of the first factor from which on oneDNN is the faster one."""

_KERNELS = 64
"""Kernels that are kept: there is one for every shape, so every length of a batch adds some."""


def is_faster() -> bool:
    """Tell whether oneDNN is there and the processor is not of MKL's maker."""
    try:
        makers = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: unknown
        return False
    return "AuthenticAMD" in makers and torch.backends.mkldnn.is_available()


@cache  # once a process
def route_products() -> None:
    """Send single-precision matrix products on the CPU, forward and backward, through oneDNN.

    They stay differentiable: only the kernels below autograd are replaced.
    """
    for limit in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # its own, and torch's
        os.environ.setdefault(limit, str(_KERNELS))
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Warning only once for all operators")
        library.impl("mm", _mm, "CPU")
        library.impl("addmm", _addmm, "CPU")
    _keep.append(library)  # kernels live as long as their library


_keep: list[torch.library.Library] = []


def _mm(a: Tensor, b: Tensor) -> Tensor:
    if _suits(a, b):
        return _product(a, b, None)
    return torch.mm(a, b, out=a.new_empty(a.shape[0], b.shape[1]))


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    if beta == alpha == 1 and bias.shape == b.shape[1:] and _suits(a, b):
        return _product(a, b, bias)
    out = a.new_empty(a.shape[0], b.shape[1])
    return torch.addmm(bias, a, b, beta=beta, alpha=alpha, out=out)


def _suits(a: Tensor, b: Tensor) -> bool:
    fits = a.dtype == b.dtype == torch.float32 and a.shape[1] == b.shape[0]
    return fits and len(a) >= _MANY_ROWS and a.numel() * b.shape[1] >= _WORTH_IT


def _product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    linear = torch.ops.mkldnn._linear_pointwise
    product: Tensor = linear(_dense(a), _dense(b).t(), bias, "none", [], "")
    return product


def _dense(matrix: Tensor) -> Tensor:
    """Copy a matrix with gaps in memory, for which oneDNN has no fast kernel."""
    is_dense = matrix.is_contiguous() or matrix.t().is_contiguous()
    return matrix if is_dense else matrix.contiguous()
