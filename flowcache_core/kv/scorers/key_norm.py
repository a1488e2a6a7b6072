"""A baseline without queries: keys of small norm are looked at by many (Devoto et al., arXiv 2406.11430)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..scoring import SCORERS, Cached, Scorer


@SCORERS.register("key_norm")
@dataclass(frozen=True)
class KeyNorm(Scorer):
    """Keeps the tokens whose keys have the smallest norms."""

    needs_queries: ClassVar[bool] = False

    def score(self, queries: Tensor | None, cached: Cached) -> Tensor:
        return -cached.keys.float().norm(dim=-1)
