"""AnnCA (arXiv 2602.01801): in cross-attention a chunk looks at the words that its queries are near to.

From the paper: queries and prompt keys are projected alike, and a word counts if it shares a bucket with some query.
Ours: nearness is the agreement of codes with a block of queries, the nearest share of the words is kept for the whole
chunk, and equal words (padding) become one that counts for all of them, which is exact.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...registry import knob
from ..block_attention import KeySet
from ..blocks import block_means
from ..codes import CODES
from ..sparse import SPARSE, Outcome, Place, SparseMethod
from ..weighted import Attend, WeightedAttention


@SPARSE.register("annca")
@dataclass(frozen=True)
class AnnCA(SparseMethod):
    """The same words for all queries and heads of a chunk, chosen anew when a choice has aged."""

    kind = "cross"

    codes: str = knob("lsh", None, None, f"how nearness is measured: one of {', '.join(CODES)}")
    bits: int = knob(8, 2, 32, "of a code")
    share: float = knob(0.33, 0, 1, "of the words that are kept; 1 keeps all")
    least: int = knob(32, 1, 10_000, "words that are kept at least")
    special: int = knob(1, 0, 100, "first and last words that are always kept")
    query_block: int = knob(128, 1, 4096, "queries that are compared as one")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codes not in CODES:
            raise ValueError(f"codes {self.codes!r}: choose one of {', '.join(CODES)}")

    def attend(self, place: Place, q: Tensor, past: KeySet, attend: Attend, weighted: WeightedAttention,
               memory: dict[Any, Any]) -> Outcome:
        n = past.keys.shape[2]
        if self.share >= 1 or n <= self.least:
            return Outcome(weighted(attend, q, past.keys, past.values, past.log_m), 1.0)
        words = memory.get(n)
        if words is None:
            words = memory[n] = self.choose(q, past, place.layer)
        index, log_m = words
        part = past.take(index.expand(*past.keys.shape[:2], -1))
        return Outcome(weighted(attend, q, part.keys, part.values, log_m), index.shape[-1] / n)

    def choose(self, q: Tensor, words: KeySet, layer: int) -> tuple[Tensor, Tensor | None]:
        """`(B, 1, m)` indices of the kept words, ascending, and their log m `(B, Hk, m)` where one stands for more."""
        n, run = words.keys.shape[2], padding(words)
        nearness = self.nearness(q, words.keys, layer)
        nearness[..., n - run + 1:] = -1.0   # all but the first of the equal words
        nearness[..., :self.special] = nearness[..., n - run + 1 - self.special:n - run + 1] = 2.0
        count = min(n - run + 1, max(self.least, math.ceil(self.share * n)))
        index = nearness.sort(dim=-1, descending=True, stable=True).indices[..., :count].sort(-1).values
        if run == 1:
            return index.unsqueeze(1), None
        log_m = torch.where(index == n - run, math.log(run), 0.0)
        return index.unsqueeze(1), log_m.unsqueeze(1).expand(-1, words.keys.shape[1], -1)

    def nearness(self, q: Tensor, words: Tensor, layer: int) -> Tensor:
        """`(B, n)`: for every word the largest agreement of its code with the mean code of a block of queries, over
        heads and blocks, in -1..1."""
        bits = CODES[self.codes](words, self.bits, layer)
        signs, blocks = (2.0 * bits(x).float() - 1 for x in (words, q))
        signs = signs.repeat_interleave(q.shape[1] // words.shape[1], dim=1)
        blocks = block_means(blocks, self.query_block)
        return (blocks @ signs.transpose(-1, -2) / signs.shape[-1]).amax((1, 2))


def padding(words: KeySet) -> int:
    """How many of the last words are equal, in all items and heads; they attend as one that counts for all."""
    if words.log_m is not None:
        return 1
    same = ((words.keys == words.keys[:, :, -1:]) & (words.values == words.values[:, :, -1:])).all(-1)
    same = same.all(0).all(0).flip(0).tolist()
    return same.index(False) if False in same else len(same)
