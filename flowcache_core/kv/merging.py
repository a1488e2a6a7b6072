"""The contract of a merger: which cached tokens are folded into others before a scorer has to drop any."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..registry import Registry, check_knobs
from .budget import KVShape
from .scoring import Cached


@dataclass(frozen=True)
class Merged:
    """absorbed `(items, kv_heads, n)`: tokens that went into others. values `(items, kv_heads, n, d)` and log_m
    `(items, kv_heads, n)`: of the others afterwards."""

    absorbed: Tensor
    values: Tensor
    log_m: Tensor


@dataclass(frozen=True)
class Merger(ABC):
    """A way to merge tokens. Subclasses are frozen dataclasses whose fields are `knob`s.

    A merged token keeps its own key and place; its value and weight are the merger's to say.
    """

    name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_knobs(self)

    def check(self, shape: KVShape) -> None:
        """Raises ValueError where the settings do not fit a cache of this shape; called before sampling."""

    @abstractmethod
    def merge(self, cached: Cached, surplus: int) -> Merged:
        """Folds at most `surplus` tokens of every head into others."""


def fold_into(target: Tensor, cached: Cached) -> Merged:
    """Every token that has a target goes into it, and with it into that one's own target.

    target: `(items, kv_heads, n)`, the index of a later token, or the token's own. Values are means weighted by what
    each token stands for; a token that nothing goes into keeps its value bit for bit.
    """
    n = target.shape[-1]
    own = torch.arange(n, device=target.device).expand_as(target)
    root = target
    for _ in range(max(1, (n - 1).bit_length())):
        root = root.gather(-1, root)
    log_m = torch.zeros(target.shape, device=target.device) if cached.log_m is None else cached.log_m.float()
    weight = log_m.exp()
    total = torch.zeros_like(weight).scatter_add_(-1, root, weight)
    spread = root.unsqueeze(-1).expand_as(cached.values)
    sums = torch.zeros(cached.values.shape, device=target.device).scatter_add_(
        2, spread, cached.values.float() * weight.unsqueeze(-1))
    grown = torch.zeros_like(root).scatter_add_(-1, root, torch.ones_like(root)) > 1
    means = (sums / total.clamp_min(1e-9).unsqueeze(-1)).to(cached.values.dtype)
    return Merged(target != own, torch.where(grown.unsqueeze(-1), means, cached.values),
                  torch.where(grown, total.clamp_min(1).log(), log_m))


MERGERS: Registry[Merger] = Registry("merger")
