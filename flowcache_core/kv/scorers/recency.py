"""The baseline of every cache: later tokens are worth more."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..scoring import SCORERS, Cached, Scorer


@SCORERS.register("recency")
@dataclass(frozen=True)
class Recency(Scorer):
    """Keeps the last tokens, whatever they say."""

    needs_queries: ClassVar[bool] = False

    def score(self, queries: Tensor | None, cached: Cached) -> Tensor:
        items, heads, n, _ = cached.keys.shape
        return torch.arange(n, dtype=torch.float32, device=cached.keys.device).expand(items, heads, n)
