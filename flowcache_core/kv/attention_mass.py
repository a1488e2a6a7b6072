"""What a cached token is worth: how much queries look at it, and how much it repeats what others say.

Exact forms of FlowCache's two terms (arXiv 2602.10825, section 3.2) that never hold a queries x keys or keys x keys
matrix: heads go by one after the other, queries in tiles, and similarity to all others is similarity to their sum.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

TILE_BYTES = 8 * 2**20   # of one tile of logits; two such tensors live at once. Larger ones leave the CPU's caches


def mean_attention(q: Tensor, k: Tensor, log_m: Tensor | None = None) -> Tensor:
    """Mean over the queries of the softmax over keys: `(B, Hk, n)`, fp32, each row sums to 1.

    q `(B, Hq, Lq, d)`, k `(B, Hk, n, d)`, Hq a multiple of Hk; log_m `(B, Hk, n)` is added to a key's logits. Of the
    query heads that share a key head, the largest logit counts.
    """
    total = torch.zeros(k.shape[:3], device=k.device)
    for head, logits in _logit_tiles(q, k, log_m):
        shared = logits.amax(1) if logits.shape[1] > 1 else logits.squeeze(1)
        total[:, head] += shared.softmax(-1).sum(1)
    return total / q.shape[2]


def peak_attention(q: Tensor, k: Tensor, log_m: Tensor | None = None) -> Tensor:
    """Largest softmax weight that any query gives a key, `(B, Hk, n)`, fp32; the mean over the query heads that share
    a key head. Arguments as in `mean_attention`."""
    b, heads, n, _ = k.shape
    peak = torch.zeros(b, heads, q.shape[1] // heads, n, device=k.device)
    for head, logits in _logit_tiles(q, k, log_m):
        peak[:, head] = peak[:, head].maximum(logits.softmax(-1).amax(2))
    return peak.mean(2)


def _logit_tiles(q: Tensor, k: Tensor, log_m: Tensor | None) -> Iterator[tuple[int, Tensor]]:
    """`(key head, logits (B, group, rows, n))` of every head, as many query rows at a time as `TILE_BYTES` hold."""
    b, heads, n, d = k.shape
    group = q.shape[1] // heads
    rows = max(1, TILE_BYTES // (4 * b * group * n))
    for head in range(heads):
        keys = k[:, head, None].float().transpose(-1, -2)
        for tile in q[:, head * group:(head + 1) * group].split(rows, dim=2):
            logits = tile.float() / d**0.5 @ keys
            yield head, logits if log_m is None else logits.add_(log_m[:, head, None, None])


def pool_neighbours(values: Tensor, kernel: int, positions: Tensor | None = None) -> Tensor:
    """Maximum over a centred window of `kernel` (odd) tokens along the last dimension.

    positions `(B, H, n)`, ascending: only tokens at most `kernel // 2` apart in the video count as neighbours. None:
    neighbours in the given order (the released behaviour).
    """
    reach = kernel // 2
    if positions is None:
        return F.max_pool1d(values, kernel, stride=1, padding=reach)
    pooled = values.clone()
    for shift in range(1, reach + 1):
        near = positions[..., shift:] - positions[..., :-shift] <= reach
        low = torch.where(near, values[..., :-shift], -torch.inf)
        high = torch.where(near, values[..., shift:], -torch.inf)
        pooled[..., shift:] = pooled[..., shift:].maximum(low)
        pooled[..., :-shift] = pooled[..., :-shift].maximum(high)
    return pooled


def redundancy(k: Tensor) -> Tensor:
    """Softmax over the keys of each one's mean cosine with all others: `(B, Hk, n)`, fp32; k `(B, Hk, n, d)`.

    A key's cosine with itself is left out; the mean is over n.
    """
    return torch.stack([_repeated(k[:, head].float()) for head in range(k.shape[1])], dim=1)


def _repeated(keys: Tensor) -> Tensor:
    unit = keys / (keys.norm(dim=-1, keepdim=True) + 1e-8)
    others = (unit * (unit.sum(1, keepdim=True) - unit)).sum(-1)
    return (others / keys.shape[1]).softmax(-1)
