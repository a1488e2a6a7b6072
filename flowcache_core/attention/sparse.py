"""The contract of sparse attention: which keys are looked at, in which layers and at which steps."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from torch import Tensor

from ..registry import Registry, check_knobs, knob
from .block_attention import KeySet
from .weighted import Attend, WeightedAttention


@dataclass(frozen=True)
class Place:
    """Where attention is computed. layer: of `layers`; stream: conditioning role; chunks: those whose queries attend;
    step, steps: of the least advanced of them; tokens_per_frame; own: how many of the last keys are the chunks' own;
    version: changes whenever other keys are cached; items: batch items; fresh: the
    queries are those of other tokens at every step."""

    layer: int
    layers: int
    stream: str
    chunks: tuple[int, ...]
    step: int
    steps: int
    tokens_per_frame: int
    own: int = 0
    version: int = 0
    items: tuple[int, ...] = (0,)
    fresh: bool = False


@dataclass(frozen=True)
class Outcome:
    """What was attended: out `(B, H, Lq, D)`, and the share of query-key pairs that were looked at. pairs: those that
    another kernel than `attend` computed, which nobody else can count."""

    out: Tensor
    density: float
    pairs: int = 0


@dataclass(frozen=True)
class SparseMethod(ABC):
    """A way to look at fewer keys. Subclasses are frozen dataclasses whose fields are `knob`s. kind: which of the two
    attentions of a block."""

    name: ClassVar[str] = ""
    kind: ClassVar[Literal["self", "cross"]] = "self"

    def __post_init__(self) -> None:
        check_knobs(self)

    @abstractmethod
    def attend(self, place: Place, q: Tensor, past: KeySet, attend: Attend, weighted: WeightedAttention,
               memory: dict[Any, Any]) -> Outcome:
        """memory: what the method wants to keep between the steps of a layer, stream and set of keys."""


SPARSE: Registry[SparseMethod] = Registry("sparse attention")


@dataclass(frozen=True)
class SparseAttention:
    """Methods (at most one for self- and one for cross-attention), and where they are off.

    The first steps are dense since what is decided there stays; the last since nothing corrects it; the first and last
    blocks since their attention is least local. Passes that only write keys are dense: everybody reads those.
    """

    methods: tuple[SparseMethod, ...]
    dense_steps: float = knob(0.3, 0, 1, "share of a chunk's steps, from the first, that are dense")
    dense_blocks: float = knob(0.3, 0, 1, "share of the blocks that are dense, the first half and the last half of it")
    refresh: float = knob(0.25, 0, 1, "share of a chunk's steps for which a choice of keys is kept")
    by_kind: dict[str, SparseMethod] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        check_knobs(self)
        for method in self.methods:
            if method.kind in self.by_kind:
                raise ValueError(f"sparse attention {self.by_kind[method.kind].name!r} and {method.name!r}: both are "
                                 f"of {method.kind}-attention, give one")
            self.by_kind[method.kind] = method

    def method(self, kind: str, place: Place) -> SparseMethod | None:
        """The method that is on here; None: dense."""
        edge = self.dense_blocks * place.layers / 2
        first, last = math.ceil(edge), place.layers - math.floor(edge)
        warm = math.ceil(self.dense_steps * place.steps)
        on = first <= place.layer < last and warm <= place.step < place.steps - 1
        return self.by_kind.get(kind) if on else None

    def age(self, place: Place) -> int:
        """Number of the period of steps in which a choice is kept."""
        return place.step // max(1, math.ceil(self.refresh * place.steps))

    def describe(self) -> dict[str, Any]:
        settings = {method.name: {f.name: getattr(method, f.name) for f in fields(method)} for method in self.methods}
        return {"methods": settings, "dense_steps": self.dense_steps, "dense_blocks": self.dense_blocks,
                "refresh": self.refresh}
