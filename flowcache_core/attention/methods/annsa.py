"""AnnSA (arXiv 2602.01801): in self-attention a query looks at the keys of its buckets.

From the paper: approximate nearest neighbours of queries among keys, by random projections (lsh) or in low precision
(quant), mapped to a mask of blocks. Ours: tokens are sorted by their codes so that blocks are alike, and a block of
queries takes the blocks of keys that hold most of its attention, estimated between means of few tokens.
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...registry import knob
from ...saved import saved
from ..block_attention import KeySet, flex, gathered
from ..blocks import block_mass, choose_blocks
from ..codes import CODES, code_order, low_bits
from ..sparse import SPARSE, Outcome, Place, SparseMethod
from ..weighted import Attend, WeightedAttention

FLEX_BLOCK = 128   # what block masks on CUDA are made of


@saved
@dataclass(frozen=True)
class Choice:
    """order: of the keys that are chosen from; queries, back: of the queries, and to undo it; table: of blocks, of
    which density is chosen."""

    order: Tensor
    queries: Tensor
    back: Tensor
    table: Tensor
    density: float


@SPARSE.register("annsa")
@dataclass(frozen=True)
class AnnSA(SparseMethod):
    """Own keys, the sink and the last frames are always seen; of the others, blocks are chosen."""

    codes: str = knob("lsh", None, None, f"how tokens are sorted: one of {', '.join(CODES)}")
    bits: int = knob(8, 2, 32, "of a code; with quant also the precision of block scores")
    keep: float = knob(0.9, 0, 1, "share of the estimated attention that chosen blocks hold; 1 takes all")
    least_share: float = knob(0.4, 0, 1, "of the blocks that are chosen at least")
    least_blocks: int = knob(4, 1, 10_000, "blocks that are chosen at least")
    block: int = knob(128, 1, 4096, "keys of a block")
    query_block: int = knob(256, 1, 4096, "queries of a block")
    sub: int = knob(4, 1, 4096, "tokens that are compared as one when blocks are chosen; divides both blocks")
    dense_below: int = knob(16, 0, 10_000, "blocks of the past below which all are seen")
    sink_frames: int = knob(1, 0, 1000, "first frames that are always seen")
    recent_frames: int = knob(1, 0, 1000, "last frames before the chunk that are always seen")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codes not in CODES:
            raise ValueError(f"codes {self.codes!r}: choose one of {', '.join(CODES)}")
        if self.block % self.sub or self.query_block % self.sub:
            raise ValueError(f"sub {self.sub}: expected a number that divides block {self.block} and query_block "
                             f"{self.query_block}")

    def attend(self, place: Place, q: Tensor, past: KeySet, attend: Attend, weighted: WeightedAttention,
               memory: dict[Any, Any]) -> Outcome:
        n = past.keys.shape[2]
        start = min(n, self.sink_frames * place.tokens_per_frame)
        stop = n - place.own - self.recent_frames * place.tokens_per_frame
        blocks = max(0, stop - start) // self.block
        if blocks == 0 or blocks < self.dense_below or self.keep >= 1:
            return Outcome(weighted(attend, q, past.keys, past.values, past.log_m), 1.0)
        inside = past.slice(start, start + blocks * self.block)
        outside = past.slice(0, start).joined(past.slice(start + blocks * self.block, None))
        shape = (tuple(q.shape), tuple(inside.keys.shape))
        choice = memory.get(shape)
        if choice is None:
            choice = memory[shape] = self.choose(q, inside, place.layer)
        if choice.density == 1:
            return Outcome(weighted(attend, q, past.keys, past.values, past.log_m), 1.0)
        rows = choice.queries.unsqueeze(-1).expand_as(q)
        sorted_q, arguments = q.gather(2, rows), (inside.take(choice.order), outside, choice.table, self.query_block,
                                                  self.block)
        compiled = self.compiles(q)
        out = flex(sorted_q, *arguments) if compiled else gathered(sorted_q, *arguments, attend, weighted)
        seen = choice.density * blocks * self.block + outside.keys.shape[2]
        pairs = round(q[..., 0].numel() * seen) if compiled else 0
        return Outcome(out.gather(2, choice.back.unsqueeze(-1).expand_as(q)), seen / n, pairs)

    def compiles(self, q: Tensor) -> bool:
        """Whether blocks are skipped inside one compiled kernel."""
        return q.is_cuda and self.block % FLEX_BLOCK == 0 and self.query_block % FLEX_BLOCK == 0

    def choose(self, q: Tensor, inside: KeySet, layer: int) -> Choice:
        """For every block of queries, the blocks of `inside` (a whole number) that it looks at."""
        bits = CODES[self.codes](inside.keys, self.bits, layer)
        order, queries = code_order(bits(inside.keys)), code_order(bits(q))
        keys, sorted_q = inside.take(order), q.gather(2, queries.unsqueeze(-1).expand_as(q))
        k = keys.keys.float()
        if self.codes == "quant":
            k, sorted_q = low_bits(k, self.bits), low_bits(sorted_q.float(), self.bits)
        mass = block_mass(sorted_q, k, self.query_block, self.block, self.sub, keys.log_m)
        least = max(self.least_blocks, math.ceil(self.least_share * mass.shape[-1]))
        table = choose_blocks(mass, self.keep, least)
        return Choice(order, queries, queries.argsort(-1), table, table.float().mean().item())
