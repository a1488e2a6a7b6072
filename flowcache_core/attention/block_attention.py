"""Attention of query blocks to chosen key blocks, and of all queries to some keys besides.

`gathered` runs anywhere: query blocks with equally many key blocks go through a plain attention call together, on
gathered keys. `flex` skips blocks inside one compiled kernel, on CUDA. Both give what a masked dense attention gives.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .weighted import Attend, WeightedAttention

TILE_BYTES = 256 * 2**20   # of gathered keys and values


@dataclass(frozen=True)
class KeySet:
    """Keys and values `(B, Hk, n, D)` and, where keys stand for several, log_m `(B, Hk, n)`."""

    keys: Tensor
    values: Tensor
    log_m: Tensor | None = None

    def take(self, index: Tensor) -> "KeySet":
        """The tokens `index (B, Hk, m)`."""
        rows = index.unsqueeze(-1).expand(-1, -1, -1, self.keys.shape[-1])
        return KeySet(self.keys.gather(2, rows), self.values.gather(2, rows),
                      None if self.log_m is None else self.log_m.gather(2, index))

    def slice(self, start: int, stop: int | None) -> "KeySet":
        part = slice(start, stop)
        return KeySet(self.keys[:, :, part], self.values[:, :, part],
                      None if self.log_m is None else self.log_m[:, :, part])

    def joined(self, other: "KeySet") -> "KeySet":
        log_m = None if self.log_m is None else torch.cat([self.log_m, other.log_m], dim=2)
        return KeySet(torch.cat([self.keys, other.keys], dim=2), torch.cat([self.values, other.values], dim=2), log_m)


def gathered(q: Tensor, blocks: KeySet, always: KeySet, table: Tensor, query_block: int, block: int, attend: Attend,
             weighted: WeightedAttention) -> Tensor:
    """`(B, H, Lq, D)`. blocks: a whole number of blocks of `block` keys; always: keys that every query sees."""
    b, heads, length, d = q.shape
    kv_heads, nq = table.shape[1], table.shape[2]
    padded = F.pad(q, (0, 0, 0, nq * query_block - length)).unflatten(2, (nq, query_block))
    queries = padded.unflatten(1, (kv_heads, -1)).transpose(2, 3).reshape(b * kv_heads * nq, -1, query_block, d)
    counts, out = table.sum(-1).flatten(), torch.empty_like(queries)
    ranked = table.flatten(0, 2).byte().sort(dim=-1, descending=True, stable=True).indices   # chosen blocks first
    parts = [[x.flatten(0, 1).unflatten(1, (-1, block)) for x in (blocks.keys, blocks.values)],
             [x.flatten(0, 1) for x in (always.keys, always.values)]]
    weights = None if blocks.log_m is None else [blocks.log_m.flatten(0, 1).unflatten(1, (-1, block)),
                                                 always.log_m.flatten(0, 1)]
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero().flatten()
        bytes_per_row = 2 * (count * block + always.keys.shape[2]) * d * q.element_size()
        for tile in rows.split(max(1, TILE_BYTES // bytes_per_row)):
            source, chosen = tile // nq, ranked[tile, :count]
            keys, values = (torch.cat([inside[source[:, None], chosen].flatten(1, 2), outside[source]], dim=1)
                            for inside, outside in zip(*parts, strict=True))
            log_m = None if weights is None else torch.cat(
                [weights[0][source[:, None], chosen].flatten(1, 2), weights[1][source]], dim=1).unsqueeze(1)
            out[tile] = weighted(attend, queries[tile], keys.unsqueeze(1), values.unsqueeze(1), log_m)
    whole = out.view(b, kv_heads, nq, -1, query_block, d).transpose(2, 3).reshape(b, heads, nq * query_block, d)
    return whole[:, :, :length]


def flex(q: Tensor, blocks: KeySet, always: KeySet, table: Tensor, query_block: int, block: int,
         compiled: bool = True) -> Tensor:
    """The same through `flex_attention`. compiled: off for tests; uncompiled it computes every pair and masks."""
    from torch.nn.attention.flex_attention import BlockMask

    inside, length = blocks.keys.shape[2], q.shape[2]
    whole = blocks.joined(always)
    group = q.shape[1] // whole.keys.shape[1]
    extra, total = -(-always.keys.shape[2] // block), inside + always.keys.shape[2]
    shown = F.pad(table, (0, extra), value=True).repeat_interleave(group, dim=1)
    # Few lengths, or every chunk would compile a kernel of its own; after eight, torch computes every pair instead.
    wide = F.pad(shown, (0, 2 ** (shown.shape[-1] - 1).bit_length() - shown.shape[-1]))
    valid = torch.arange(wide.shape[-1] * block, device=q.device) < total
    keys, values = (F.pad(x, (0, 0, 0, wide.shape[-1] * block - total)) for x in (whole.keys, whole.values))
    padded = F.pad(q, (0, 0, 0, wide.shape[2] * query_block - length))

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return wide[b, h, i // query_block, j // block] & valid[j]

    score_mod = None
    if whole.log_m is not None:
        bias = F.pad(whole.log_m, (0, keys.shape[2] - total))

        def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return score + bias[b, h // group, j]

    indices = wide.byte().sort(dim=-1, descending=True, stable=True).indices.int()
    mask = BlockMask.from_kv_blocks(wide.sum(-1).int(), indices, BLOCK_SIZE=(query_block, block), mask_mod=visible)
    call = _compiled_flex() if compiled else _plain_flex()
    out = call(padded, keys, values, score_mod=score_mod, block_mask=mask, enable_gqa=group > 1)
    return out[:, :, :length]


def _plain_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


@lru_cache(maxsize=1)   # a pure function: nothing of a run is in it
def _compiled_flex() -> Callable[..., Tensor]:
    return torch.compile(_plain_flex(), dynamic=False)
