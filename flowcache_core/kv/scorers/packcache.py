"""A budget that decays with age (PackCache, arXiv 2601.04359: attention to a frame falls with its distance).

The paper gives no decay law and no choice of tokens inside a frame; geometric decay and an even choice are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...registry import knob
from ..scoring import SCORERS, Cached, Scorer

INSIDE = ("even", "key_norm")


def shares(sizes: Sequence[int], total: int, decay: float, least: int) -> list[int]:
    """How many of `total` tokens each frame keeps; sizes: tokens of every frame, oldest first.

    In proportion to `decay**age`, at least `least` and at most all of a frame; what is left over goes to the newest.
    The sum is `min(total, sum(sizes))`.
    """
    floors = [min(least, size) for size in sizes]
    weights = [decay ** (len(sizes) - 1 - n) for n in range(len(sizes))]
    scale = max(0, total - sum(floors)) / sum(weights)
    kept = [min(size, floor + int(scale * weight))
            for size, floor, weight in zip(sizes, floors, weights, strict=True)]
    left = total - sum(kept)
    for n in reversed(range(len(sizes))):
        change = min(left, sizes[n] - kept[n]) if left > 0 else 0
        kept[n] += change
        left -= change
    for n in range(len(sizes)):   # more frames than tokens: the oldest lose theirs
        change = min(-left, kept[n]) if left < 0 else 0
        kept[n] -= change
        left += change
    return kept


def even_order(cells: int) -> Tensor:
    """`(cells,)`: rank of each cell of a frame, so that the cells of the first ranks lie evenly in raster order."""
    bits = max(1, (cells - 1).bit_length())
    reversed_bits = [int(format(cell, f"0{bits}b")[::-1], 2) for cell in range(cells)]
    return torch.tensor(reversed_bits).argsort().argsort()


@SCORERS.register("packcache")
@dataclass(frozen=True)
class PackCache(Scorer):
    """Old frames keep fewer tokens than new ones."""

    needs_queries: ClassVar[bool] = False

    decay: float = knob(0.8, 0.01, 1, "of the tokens that a frame keeps, with every frame of age")
    least: int = knob(1, 0, 10_000, "tokens that every frame keeps at least")
    inside: str = knob("even", None, None, f"which tokens of a frame: one of {', '.join(INSIDE)}")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inside not in INSIDE:
            raise ValueError(f"inside {self.inside!r}: choose one of {', '.join(INSIDE)}")

    def score(self, queries: Tensor | None, cached: Cached) -> Tensor:
        """A frame's share less the token's rank in its frame: positive for the tokens that stay."""
        frames = cached.frames
        numbers, sizes = frames[0, 0].unique_consecutive(return_counts=True)   # equal in all heads: shares are
        kept = shares(sizes.tolist(), cached.keep or frames.shape[-1], self.decay, self.least)
        best_first = self._inside(cached).sort(dim=-1, descending=True, stable=True).indices
        by_frame = frames.gather(-1, best_first).sort(dim=-1, stable=True).indices
        order = best_first.gather(-1, by_frame)            # frame by frame, best first
        starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        rank = torch.arange(frames.shape[-1], device=frames.device) - starts
        share = torch.tensor(kept, device=frames.device).repeat_interleave(sizes)
        worth = (share - rank).float().expand(frames.shape)
        return torch.empty_like(worth).scatter_(-1, order, worth)

    def _inside(self, cached: Cached) -> Tensor:
        """Higher is kept, among the tokens of a frame."""
        if self.inside == "key_norm":
            return -cached.keys.float().norm(dim=-1)
        order = even_order(cached.tokens_per_frame).to(cached.positions.device)
        return -order[cached.positions % cached.tokens_per_frame].float()
