"""Which token of the previous frame says what this one says: links over time, without a keys x keys matrix."""

import torch
from torch import Tensor

from .attention_mass import TILE_BYTES


def best_links(unit: Tensor, frames: Tensor, tokens_per_frame: int) -> tuple[Tensor, Tensor]:
    """For every token the index of the most similar one of the frame before (-1: there is none), and their product.

    unit `(B, H, n, d)`; frames `(B, H, n)`, ascending, each at most `tokens_per_frame` times: so the frame before lies
    within two frames of tokens, and only those are compared.
    """
    b, heads, n, _ = unit.shape
    rows = min(tokens_per_frame, max(1, TILE_BYTES // (12 * b * heads * tokens_per_frame)))
    older = torch.full((b, heads, n), -1, device=unit.device)
    cosine = torch.full((b, heads, n), -torch.inf, device=unit.device)
    for start in range(0, n, rows):
        own, near = slice(start, start + rows), slice(max(0, start - 2 * tokens_per_frame), start + rows)
        product = unit[:, :, own] @ unit[:, :, near].transpose(-1, -2)
        before = frames[:, :, None, near] == frames[:, :, own, None] - 1
        cosine[:, :, own], index = product.masked_fill_(~before, -torch.inf).max(-1)
        older[:, :, own] = torch.where(before.any(-1), index + near.start, -1)
    return older, cosine


def one_to_one(older: Tensor, cosine: Tensor) -> Tensor:
    """`(B, H, n)`: links that are the best, and of equal ones the first, among those to the same older token."""
    n = older.shape[-1]
    place = older.clamp_min(0)
    linked = older >= 0
    best = torch.full_like(cosine, -torch.inf).scatter_reduce_(-1, place, cosine, "amax")   # no link: -inf
    equal = linked & (cosine == best.gather(-1, place))
    number = torch.arange(n, device=older.device).expand_as(older)
    first = torch.full_like(older, n).scatter_reduce_(-1, place, torch.where(equal, number, n), "amin")
    return equal & (number == first.gather(-1, place))
