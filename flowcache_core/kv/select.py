"""Which tokens stay: the best `budget` of every head, whole groups of them where wanted."""

from typing import Literal

import torch
from torch import Tensor

Granularity = Literal["token", "frame", "chunk"]


def group_means(score: Tensor, size: int) -> Tensor:
    """Means `(B, H, n / size)` over consecutive groups; raises ValueError where `size` does not divide n."""
    n = score.shape[-1]
    if size < 1 or n % size:
        raise ValueError(f"{n} cached tokens in groups of {size}: the tokens must be a multiple of the group")
    return score.unflatten(-1, (n // size, size)).mean(-1)


def by_score(score: Tensor, budget: int, group: int = 1) -> Tensor:
    """Indices `(B, H, budget)` of the tokens with the highest scores, best first; groups stay whole and ascending.

    Equal scores: the earlier token. budget: tokens, a multiple of `group`, 0..n.
    """
    if not 0 <= budget <= score.shape[-1] or budget % group:
        raise ValueError(f"budget of {budget} tokens from {score.shape[-1]} in groups of {group}: expected a multiple "
                         "of the group, at most all")
    ranked = score if group == 1 else group_means(score, group)
    best = ranked.sort(dim=-1, descending=True, stable=True).indices[..., :budget // group]
    if group == 1:
        return best
    return (best.unsqueeze(-1) * group + torch.arange(group, device=score.device)).flatten(-2)


def by_position(score: Tensor, budget: int, group: int = 1) -> Tensor:
    """The same tokens in ascending order."""
    return by_score(score, budget, group).sort(dim=-1).values


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Rows of `x (B, H, n, d)` chosen per head by `index (B, H, m)`: `(B, H, m, d)`."""
    return x.gather(2, index.unsqueeze(-1).expand(-1, -1, -1, x.shape[-1]))
