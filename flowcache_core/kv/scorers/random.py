"""A baseline without content: tokens at random, the same in every run."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...registry import knob
from ..scoring import SCORERS, Cached, Scorer


@SCORERS.register("random")
@dataclass(frozen=True)
class Random(Scorer):
    """Keeps a random choice, drawn anew for every head at every event from `seed`."""

    needs_queries: ClassVar[bool] = False

    seed: int = knob(0, 0, 2**31, "of the draw")

    def score(self, queries: Tensor | None, cached: Cached) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(cached.keys.shape[:3], generator=generator).to(cached.keys.device)
