"""May this step be skipped? The contract between a policy and a run.

A policy is a frozen configuration. For every lane (chunk, stream, batch item) the run keeps one state and asks, once a
step and in order: `decide` (pure), then tells `observe` what was really done. The run enforces what must be computed
and hands over the signal; a policy sees neither network nor tensors beyond its signal.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, ClassVar, Literal

from torch import Tensor

from ..registry import Registry, check_knobs

NOT_FINITE = "the signal is not finite"   # reason of a decision; the run counts and reports it

SignalKind = Literal["none", "time_modulation", "patch_embedding"]


class Kind(Enum):
    """What happens to a chunk step. REUSE repeats what the predictor kept; PREDICT extrapolates it; PARTIAL computes
    some tokens or blocks; DERIVE takes the result of another stream."""

    COMPUTE = "compute"
    REUSE = "reuse"
    PREDICT = "predict"
    PARTIAL = "partial"
    DERIVE = "derive"


@dataclass(frozen=True)
class Decision:
    """kind with its cause. value: the number that was compared with `limit` (None where nothing was compared).

    tokens: token positions inside the chunk for PARTIAL; blocks: block indices; source_stream: for DERIVE.
    """

    kind: Kind
    reason: str
    value: float | None = None
    limit: float | None = None
    distance: float | None = None
    tokens: tuple[int, ...] | None = None
    blocks: tuple[int, ...] | None = None
    source_stream: str | None = None

    @property
    def computes(self) -> bool:
        return self.kind is Kind.COMPUTE


@dataclass(frozen=True)
class StepInfo:
    """Where a decision is made: one step of one lane. sigma, sigma_next: noise before and after the step. edge_row:
    the step is part of the plan's first or last row."""

    chunk: int
    chunks: int
    step: int
    steps: int
    stream: str
    item: int
    sigma: float
    sigma_next: float
    must_compute: bool = False
    edge_row: bool = False


@dataclass(frozen=True)
class ReusePolicy(ABC):
    """A way to decide. Subclasses are frozen dataclasses whose fields are `knob`s.

    DISABLED: settings with which the policy never skips. signal: what it looks at. per_stream: whether streams decide
    on their own; otherwise the first stream's decision holds for the chunk.
    """

    name: ClassVar[str] = ""
    DISABLED: ClassVar[dict[str, Any]] = {}
    per_stream: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_knobs(self)

    @property
    def signal(self) -> SignalKind:
        return "none"

    def check(self, chunks: int) -> None:
        """Raises ValueError where the settings do not fit a video of `chunks`; called before sampling."""

    def new_state(self) -> Any:
        """The state of a lane before its first step; frozen, replaced by `observe`."""
        return None

    @abstractmethod
    def decide(self, state: Any, info: StepInfo, signal: Tensor | None) -> Decision:
        """What to do at this step. Changes nothing."""

    def observe(self, state: Any, info: StepInfo, signal: Tensor | None, decision: Decision) -> Any:
        """The lane's next state, after `decision` was carried out (the run may have overruled it)."""
        return state

    def settings(self) -> dict[str, Any]:
        """The fields, as JSON can hold them."""
        return {f.name: value if isinstance(value := getattr(self, f.name), (int, float, str, bool, type(None)))
                else str(value) for f in fields(self)}


POLICIES: Registry[ReusePolicy] = Registry("policy")
