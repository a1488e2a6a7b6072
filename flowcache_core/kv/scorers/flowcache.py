"""FlowCache's score (arXiv 2602.10825, section 3.2): importance to the queries against redundancy among the keys."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...registry import knob
from ..attention_mass import mean_attention, pool_neighbours, redundancy
from ..scoring import SCORERS, Cached, Scorer

FLOOR = 0.1            # least weight of a position
TOKEN_QUERIES = 50     # the last queries, where only a few are asked
RATE = 2.0             # of the exponential weight
GAUSS_SPREAD = 4       # standard deviations of the bell that fit into the sequence
BARRED = 1e6           # taken off a score to rule a token out

Weight = Callable[[Tensor, float], Tensor]


def _bell(x: Tensor, _: float) -> Tensor:
    index = x * (len(x) - 1)
    bell = torch.exp(-0.5 * (index / (len(x) / GAUSS_SPREAD)) ** 2)
    return FLOOR + (1 - FLOOR) * (bell - bell[-1]) / (1 - bell[-1])


WEIGHTS: dict[str, Weight] = {
    "no_weight": lambda x, power: torch.ones_like(x),
    "exponential": lambda x, power: FLOOR + (1 - FLOOR) * (1 - torch.exp(-RATE * x)) / (1 - math.exp(-RATE)),
    "polynomial": lambda x, power: FLOOR + (1 - FLOOR) * x**power,
    "upper_convex_polynomial": lambda x, power: 2 * (1 - (1 - x) ** power),
    "gaussian": _bell,
}
BAR_OLDEST = "hard_code"
QUERIES = ("chunk", "frame", "token")


@SCORERS.register("flowcache")
@dataclass(frozen=True)
class FlowCacheScore(Scorer):
    """`mix * importance - (1 - mix) * redundancy`, both softmax outputs over the tokens that compete."""

    mix: float = knob(0.07, 0, 1, "share of importance; the rest weighs redundancy")
    kernel: int = knob(7, 1, 99, "odd width, in tokens, over which importance spreads to its neighbours")
    queries: str = knob("chunk", None, None, "which queries are asked: all of the chunk, its last frame, or its last "
                        f"{TOKEN_QUERIES} (token)")
    weighting: str = knob("no_weight", None, None, "how the place in the video weighs: "
                          f"{', '.join((*WEIGHTS, BAR_OLDEST))}")
    power: float = knob(3.0, 0, 20, "exponent of the two polynomial weights")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel}: expected an odd number of tokens")
        for name, value, known in (("queries", self.queries, QUERIES),
                                   ("weighting", self.weighting, (*WEIGHTS, BAR_OLDEST))):
            if value not in known:
                raise ValueError(f"{name} {value!r}: choose one of {', '.join(known)}")

    def asked(self, queries: Tensor, tokens_per_frame: int) -> Tensor:
        """The queries `(B, H, Lq, d)` that count."""
        count = {"chunk": queries.shape[2], "frame": tokens_per_frame, "token": TOKEN_QUERIES}[self.queries]
        return queries[:, :, -count:]

    def terms(self, queries: Tensor, cached: Cached) -> tuple[Tensor, Tensor]:
        """Importance and redundancy, each `(B, Hk, n)`."""
        mass = mean_attention(self.asked(queries, cached.tokens_per_frame), cached.keys, cached.log_m)
        return pool_neighbours(mass, self.kernel, cached.positions), redundancy(cached.keys)

    def score(self, queries: Tensor | None, cached: Cached) -> Tensor:
        importance, repeated = self.terms(queries, cached)
        return self.weighted(self.mix * importance - (1 - self.mix) * repeated, cached.tokens_per_chunk)

    def weighted(self, raw: Tensor, tokens_per_chunk: int) -> Tensor:
        """The raw score under the position weight, which multiplies what exceeds each head's minimum."""
        n = raw.shape[-1]
        shifted = raw - raw.amin(-1, keepdim=True)
        if self.weighting == BAR_OLDEST:
            shifted[..., :tokens_per_chunk] -= BARRED
            return shifted
        return shifted * WEIGHTS[self.weighting](torch.arange(n, device=raw.device) / max(1, n - 1), self.power)
