"""The contract of a scorer: how much every cached token is worth. Selection, budget and pinning are done elsewhere."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..registry import Registry, check_knobs


@dataclass(frozen=True)
class Cached:
    """The tokens that compete, of one layer and stream.

    keys, values: `(items, kv_heads, n, d)`, rotated keys in the store's dtype. positions: `(items, kv_heads, n)`,
    each token's place in the video, ascending; None where the order carries no meaning. tokens_per_frame,
    tokens_per_chunk: of the latent.
    """

    keys: Tensor
    values: Tensor
    positions: Tensor | None
    tokens_per_frame: int
    tokens_per_chunk: int


@dataclass(frozen=True)
class Scorer(ABC):
    """A way to value tokens. Subclasses are frozen dataclasses whose fields are `knob`s.

    needs_queries: whether `score` looks at queries; where not, it gets None.
    """

    name: ClassVar[str] = ""
    needs_queries: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_knobs(self)

    @abstractmethod
    def score(self, queries: Tensor | None, cached: Cached) -> Tensor:
        """`(items, kv_heads, n)`, fp32, higher is kept. queries: `(items, heads, Lq, d)` of the pass that attends."""


SCORERS: Registry[Scorer] = Registry("scorer")
