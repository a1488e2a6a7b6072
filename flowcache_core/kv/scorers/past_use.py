"""PaFu-KV's salience (arXiv 2601.21896) without its head: what later chunks have looked at so far.

The paper's score of a key is the largest attention that any query of a later chunk gives it, averaged over heads. Here
it is measured in the run itself, with the queries of every chunk that asks for room; the decay is ours.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...registry import knob
from ..attention_mass import peak_attention
from ..scoring import SCORERS, Cached, Scorer


@SCORERS.register("past_use")
@dataclass(frozen=True)
class PastUse(Scorer):
    """Keeps the tokens that some query of the landing chunks looked at most."""

    remembers: ClassVar[bool] = True

    decay: float = knob(0.9, 0, 1, "of an earlier peak, with every compression")
    shared: int = knob(1, 0, 1, "1: one score for all heads, their mean; 0: one a head")

    def score(self, queries: Tensor | None, cached: Cached) -> Tensor:
        peak = peak_attention(queries, cached.keys, cached.log_m)
        if self.shared:
            peak = peak.mean(1, keepdim=True).expand_as(peak)
        return peak if cached.earlier is None else peak.maximum(self.decay * cached.earlier)
