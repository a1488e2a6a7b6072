"""Importance alone: how much the queries that ask for room look at a token (as SnapKV, arXiv 2404.14469)."""

from dataclasses import dataclass

from torch import Tensor

from ...registry import knob
from ..attention_mass import mean_attention, pool_neighbours
from ..scoring import SCORERS, Cached, Scorer


@SCORERS.register("attention")
@dataclass(frozen=True)
class Attention(Scorer):
    """Keeps the tokens with the largest mean attention."""

    kernel: int = knob(1, 1, 99, "odd width, in tokens, over which importance spreads to its neighbours")
    weigh_values: int = knob(0, 0, 1, "1: times the norm of a token's value, as its share of the output")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel}: expected an odd number of tokens")

    def score(self, queries: Tensor | None, cached: Cached) -> Tensor:
        mass = mean_attention(queries, cached.keys, cached.log_m)
        if self.weigh_values:
            mass = mass * cached.values.float().norm(dim=-1)
        return pool_neighbours(mass, self.kernel, cached.positions)
