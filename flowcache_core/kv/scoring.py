"""The contract of a scorer: how much every cached token is worth. Selection, budget and pinning are done elsewhere."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..registry import Registry, check_knobs
from .budget import KVShape


@dataclass(frozen=True)
class Cached:
    """The tokens that compete, of one layer and stream.

    keys, values: `(items, kv_heads, n, d)`, rotated keys in the store's dtype. positions: `(items, kv_heads, n)`,
    each token's place in the video, ascending; None where the order carries no meaning. tokens_per_frame,
    tokens_per_chunk: of the latent. keep: how many tokens will stay. layer: of `layers`. log_m: the logarithm of how
    many tokens each stands for. earlier: the score that each was given before, where the scorer `remembers` (0: none).
    time_theta: see `KVShape`. salience: what the scorer's `mark` said of each, where it has a `tap`.
    """

    keys: Tensor
    values: Tensor
    positions: Tensor | None
    tokens_per_frame: int
    tokens_per_chunk: int
    keep: int | None = None
    layer: int = 0
    layers: int = 1
    log_m: Tensor | None = None
    earlier: Tensor | None = None
    time_theta: float | None = None
    salience: Tensor | None = None

    @property
    def frames(self) -> Tensor:
        """`(items, kv_heads, n)`: the latent frame of each token. Raises ValueError where there are no positions."""
        if self.positions is None:
            raise ValueError("a KV method that looks at frames, in the released order: tokens have no place there")
        return self.positions // self.tokens_per_frame


@dataclass(frozen=True)
class Scorer(ABC):
    """A way to value tokens. Subclasses are frozen dataclasses whose fields are `knob`s.

    needs_queries: whether `score` looks at queries; where not, it gets None. remembers: whether a token's score is kept
    beside it until the next compression.
    """

    name: ClassVar[str] = ""
    needs_queries: ClassVar[bool] = True
    remembers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_knobs(self)

    @property
    def tap(self) -> int | None:
        """The block after which `mark` is asked, whenever keys are written; None: never."""
        return None

    def mark(self, hidden: Tensor) -> Tensor:
        """`(B, N, layers)`: what is to be kept beside each layer's tokens, from the hidden state `(B, N, D)` after the
        tap."""
        raise NotImplementedError(f"scorer {self.name!r} has a tap and no mark")

    def check(self, shape: KVShape) -> None:
        """Raises ValueError where the settings do not fit a cache of this shape; called before sampling."""

    @abstractmethod
    def score(self, queries: Tensor | None, cached: Cached) -> Tensor:
        """`(items, kv_heads, n)`, fp32, higher is kept. queries: `(items, heads, Lq, d)` of the pass that attends."""


SCORERS: Registry[Scorer] = Registry("scorer")
