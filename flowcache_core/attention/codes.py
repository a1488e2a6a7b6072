"""Codes by which tokens are sorted, so that a block holds tokens that are looked at together.

A code is a few bits of a token; tokens are put in the Gray order of their codes, in which neighbouring buckets differ
in one bit. Any order is right (attention does not depend on the order of keys); a good one makes blocks alike.
"""

from collections.abc import Callable

import torch
from torch import Tensor

ORDER_BITS = 8   # 256 buckets

Bits = Callable[[Tensor], Tensor]   # `(B, H, n, D) -> (B, H, n, bits)`, bool


def lsh_bits(keys: Tensor, bits: int, layer: int) -> Bits:
    """Signs of random projections of what exceeds the mean key; the same projections in every run of a layer."""
    generator = torch.Generator().manual_seed(1000 + layer)
    planes = torch.randn(keys.shape[-1], bits, generator=generator).to(keys.device)
    mean = keys.float().mean(2, keepdim=True)
    return lambda x: (x.float() - mean.repeat_interleave(x.shape[1] // mean.shape[1], dim=1)) @ planes > 0


def channel_bits(keys: Tensor, bits: int, layer: int) -> Bits:
    """One bit of each of the channels in which the keys differ most: above the mean or not."""
    x = keys.float()
    mean, chosen = x.mean(2, keepdim=True), x.var(2).topk(min(bits, x.shape[-1]), dim=-1).indices.unsqueeze(2)

    def signs(y: Tensor) -> Tensor:
        group = y.shape[1] // mean.shape[1]
        index = chosen.repeat_interleave(group, dim=1).expand(-1, -1, y.shape[2], -1)
        return (y.float() - mean.repeat_interleave(group, dim=1)).gather(-1, index) > 0

    return signs


CODES = {"lsh": lsh_bits, "quant": channel_bits}


def gray_rank(bits: Tensor) -> Tensor:
    """`(..., b) -> (...)`: place of each code in the Gray order, of its first `ORDER_BITS` bits."""
    bits = bits[..., :ORDER_BITS].long()
    weights = 2 ** torch.arange(bits.shape[-1] - 1, -1, -1, device=bits.device)
    rank = (bits * weights).sum(-1)
    for shift in (1, 2, 4):
        rank = rank ^ (rank >> shift)
    return rank


def code_order(bits: Tensor) -> Tensor:
    """`(B, H, n)`: tokens in the order of their codes, equal codes in the order of their places."""
    return gray_rank(bits).sort(dim=-1, stable=True).indices


def low_bits(x: Tensor, bits: int) -> Tensor:
    """`x (B, H, n, D)` rounded to whole steps, `2**bits` of them over each head's range, and back."""
    step = x.abs().amax((2, 3), keepdim=True).clamp_min(1e-12) / (2 ** (bits - 1) - 0.5)
    return (x / step).round() * step
