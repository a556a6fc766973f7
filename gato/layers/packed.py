"""Products with weights that lie as oneDNN reads them, on a CPU.

The BLAS that torch's products go to is slow where a few rows meet a matrix, on AMD's processors more than on Intel's. oneDNN comes with
torch, too, and adds or multiplies by something else on the way out. Its operators have no public name; where they are missing or give
something else, nothing is packed (`can_pack`).
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


@lru_cache(maxsize=1)
def can_pack() -> bool:
    """Whether this torch has the operators, and they do what is expected of them."""
    x, weight, other = torch.linspace(-1, 1, 8).view(2, 4), torch.linspace(-1, 1, 12).view(3, 4), torch.linspace(0, 1, 6).view(2, 3)
    try:
        packed = pack(weight)
        plain = F.linear(x, weight)
        found = product(x, packed), gelu_of(x, packed), times(x, packed, other), plus(x, packed, other)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    wanted = plain, F.gelu(plain), plain * other, plain + other
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, wanted, strict=True))


def pack(weight: Tensor) -> Tensor:
    """`weight` (out, in) as `nn.Linear` has it -> a copy that only the functions below read."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)


def product(x: Tensor, packed: Tensor) -> Tensor:
    """`x` (..., in) -> (..., out)."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def gelu_of(x: Tensor, packed: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, None, "gelu", [], "none")


def times(x: Tensor, packed: Tensor, other: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.binary(x, other, packed, None, "mul")


def plus(x: Tensor, packed: Tensor, other: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.binary(x, other, packed, None, "add")
