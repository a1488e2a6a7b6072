"""Which blocks of keys each block of queries attends to: tables `(B, key heads, query blocks, key blocks)` of bools."""

import torch
import torch.nn.functional as F
from torch import Tensor


def block_means(x: Tensor, size: int) -> Tensor:
    """`(B, H, ceil(n / size), D)`, fp32: means over consecutive tokens, the last block over what is left."""
    n = x.shape[2]
    blocks = -(-n // size)
    sums = F.pad(x.float(), (0, 0, 0, blocks * size - n)).unflatten(2, (blocks, size)).sum(3)
    counts = torch.full((blocks, 1), float(size), device=x.device)
    counts[-1] = n - (blocks - 1) * size
    return sums / counts


def block_mass(q: Tensor, k: Tensor, query_block: int, block: int, sub: int, log_m: Tensor | None = None) -> Tensor:
    """`(B, Hk, nq, nk)`, fp32: estimated share of the attention of each query block that goes to each key block.

    Both are seen as means of `sub` tokens, which divides both blocks; sub 1 is exact. Mean over the query heads that
    share keys. k: a whole number of blocks; log_m `(B, Hk, n)`: keys count for the tokens that they stand for.
    """
    group, nq = q.shape[1] // k.shape[1], -(-q.shape[2] // query_block)
    qs, ks = block_means(q, sub), block_means(k, sub)
    weight = 0.0
    if log_m is not None:
        weight = block_means(log_m.exp().unsqueeze(-1), sub).squeeze(-1).log()[:, :, None, None]
    out = torch.empty(*k.shape[:2], nq, k.shape[2] // block, device=q.device)
    sizes = torch.full((qs.shape[2],), float(sub), device=q.device)
    sizes[-1] = q.shape[2] - sub * (len(sizes) - 1)
    pad = nq * query_block // sub - len(sizes)
    sizes = F.pad(sizes, (0, pad)).unflatten(0, (nq, -1))
    for head in range(k.shape[1]):
        logits = qs[:, head * group:(head + 1) * group] / q.shape[-1] ** 0.5 @ ks[:, head, None].transpose(-1, -2)
        logits = logits + (weight if log_m is None else weight[:, head])
        mass = logits.unflatten(-1, (-1, block // sub)).logsumexp(-1).softmax(-1).mean(1)
        mass = F.pad(mass, (0, 0, 0, pad)).unflatten(1, (nq, -1)) * sizes.unsqueeze(-1)
        out[:, head] = mass.sum(2) / sizes.sum(1, keepdim=True)
    return out


def choose_blocks(mass: Tensor, keep: float, least: int) -> Tensor:
    """For every query block the fewest key blocks that hold `keep` of its mass (which sums to 1), at least `least`.

    keep 1 takes all blocks; a larger `keep` or `least` takes the same blocks and more.
    """
    if mass.shape[-1] == 0:
        raise ValueError("no key blocks to choose from")
    if keep >= 1:
        return torch.ones_like(mass, dtype=torch.bool)
    ranked = mass.sort(dim=-1, descending=True, stable=True)
    before = ranked.values.cumsum(-1) - ranked.values
    wanted = before < keep
    wanted[..., :max(1, least)] = True
    return torch.zeros_like(wanted).scatter_(-1, ranked.indices, wanted)
