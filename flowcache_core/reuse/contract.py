"""May this step be skipped? The contract between a policy and a run.

A policy is a frozen configuration. For every lane (chunk, stream, batch item) the run keeps one state and asks, once a
step and in order: `decide` (pure), then tells `observe` what was really done and, if the policy `learns`, `learn` what
came of it. The run enforces what must be computed and hands over the signal; a policy sees neither network nor tensors
beyond its signal and the outcome.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor

from ..registry import Registry, check_knobs
from .signals import relative_l1

NOT_FINITE = "the signal is not finite"   # reason of a decision; the run counts and reports it

OUTSIDE = "outside of the steps that may be skipped"   # reason of a decision

SignalKind = Literal["none", "time_modulation", "patch_embedding", "latent", "guided_velocity", "hidden", "history"]
"""time_modulation: of the timestep alone; patch_embedding: of the chunk's latent, tokens `(N, D)`; latent: before the
step, `(C, f, h, w)`; guided_velocity: what the step before gave to the solver, `(C, f, h, w)`; hidden: what its last
block left, `(N, D)`; history: patch embedding of the chunk before, in flight. None where there is none."""

BlockRange = tuple[int, int]   # first block, and the one after the last


class Kind(Enum):
    """What happens to a chunk step. REUSE repeats what the predictor kept; PREDICT extrapolates it; PARTIAL computes
    some tokens or blocks; DERIVE takes the velocity of another stream and adds the difference there was at the last
    step at which both were computed whole."""

    COMPUTE = "compute"
    REUSE = "reuse"
    PREDICT = "predict"
    PARTIAL = "partial"
    DERIVE = "derive"


@dataclass(frozen=True)
class Decision:
    """kind with its cause. value: the number that was compared with `limit` (None where nothing was compared).

    tokens: for PARTIAL, the token positions inside the chunk that are computed, ascending; blocks: for PARTIAL, the
    range that is not run, one of the policy's `block_ranges`; source_stream: for DERIVE, with factors of the low and
    the high spatial frequencies of the difference. records: whether a computed step renews what stands in later.
    """

    kind: Kind
    reason: str
    value: float | None = None
    limit: float | None = None
    distance: float | None = None
    tokens: tuple[int, ...] | None = None
    blocks: BlockRange | None = None
    source_stream: str | None = None
    factors: tuple[float, float] = (1.0, 1.0)
    records: bool = True

    def __post_init__(self) -> None:
        if self.kind is Kind.PARTIAL and (self.tokens is None) == (self.blocks is None):
            raise ValueError("a partial step: expected either tokens that are computed or blocks that are not")
        if self.kind is Kind.DERIVE and self.source_stream is None:
            raise ValueError("a derived step: expected a source_stream")

    @property
    def computes(self) -> bool:
        """Whether the step is computed whole."""
        return self.kind is Kind.COMPUTE

    def share(self, tokens: int, layers: int) -> float:
        """The part of the network's work that is done, for a chunk of `tokens` and a network of `layers`."""
        if self.kind is not Kind.PARTIAL:
            return float(self.computes)
        if self.tokens is not None:
            return len(self.tokens) / tokens
        return 1 - (self.blocks[1] - self.blocks[0]) / layers


class StepInfo(NamedTuple):
    """Where a decision is made: one step of one lane. sigma, sigma_next: noise before and after the step. edge_row:
    the step is part of the plan's first or last row. tokens: of the chunk. source: the stream from which this one may
    be derived. guidance: its scale (1: off). context_changed: a chunk that this one sees has entered or finished since
    its last step. outside: the step must be computed since the run lets a policy skip in another part of the steps.
    measure: `relative_l1`, which a run may remember for signals that come again."""

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
    tokens: int = 0
    source: str | None = None
    guidance: float = 1.0
    context_changed: bool = False
    outside: bool = False
    measure: Callable[[Tensor, Tensor, float], float] = relative_l1

    @property
    def why_computed(self) -> str:
        """The reason where it must be computed."""
        return OUTSIDE if self.outside else "the plan must compute"


@dataclass(frozen=True)
class Outcome:
    """What came of a step. velocity: of the lane's stream; guided: what the solver got; latent: after the step; all
    `(C, f, h, w)`. before: the latent frame in front of the chunk `(C, h, w)`, None for the first. losses: where all
    streams were computed whole and the policy `measures`, relative L1 errors that the stand-ins of before would have
    made, by "step", "derive" and block range. kept: the predictor's value of the lane. whole: whether all streams of
    the chunk were computed whole, and recorded."""

    velocity: Tensor
    guided: Tensor
    latent: Tensor
    before: Tensor | None = None
    losses: Mapping[str | BlockRange, float] = field(default_factory=dict)
    kept: Any = None
    whole: bool = False


@dataclass(frozen=True)
class RunFacts:
    """What a policy may check before sampling. sigmas: noise levels of an ordinary chunk, one more than its steps;
    predictor, stage: its name and where it acts; same_network: whether a fingerprint is this network's, see
    `fingerprint.py`."""

    chunks: int
    sigmas: tuple[float, ...]
    layers: int
    streams: tuple[str, ...]
    predictor: str
    stage: str
    same_network: Callable[[tuple[float, ...]], bool]


@dataclass(frozen=True)
class ReusePolicy(ABC):
    """A way to decide. Subclasses are frozen dataclasses whose fields are `knob`s.

    DISABLED: settings with which the policy never skips. signal: what it looks at. per_stream: whether streams decide
    on their own; otherwise the first stream's decision holds for the chunk. per_row: whether one decision holds for all
    chunks of a row; the signal is then a dict by chunk, and steps are rows. derives: whether it asks for DERIVE, and so
    needs differences between streams. learns: whether it is told outcomes. measures: whether these hold losses.
    """

    name: ClassVar[str] = ""
    DISABLED: ClassVar[dict[str, Any]] = {}
    per_stream: ClassVar[bool] = True
    per_row: ClassVar[bool] = False
    derives: ClassVar[bool] = False
    learns: ClassVar[bool] = False
    measures: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_knobs(self)

    @property
    def signal(self) -> SignalKind:
        return "none"

    @property
    def alike(self) -> bool:
        """Whether lanes of a chunk whose states are one and the same decide alike, whatever their stream and item: true
        where time alone is looked at, so that they are asked once."""
        return False

    def check(self, chunks: int) -> None:
        """Raises ValueError where the settings do not fit a video of `chunks`; called before sampling."""

    def check_run(self, facts: RunFacts) -> None:
        """Raises ValueError where the settings do not fit the run; called before sampling."""

    def block_ranges(self, layers: int) -> tuple[BlockRange, ...]:
        """Ranges of blocks whose residual is to be kept at every computed step, for PARTIAL."""
        return ()

    def state_bytes(self, signal: int, latent: int) -> int:
        """The most bytes of tensors in a lane's state, for a signal and a chunk's latent (fp32) of so many bytes."""
        return 0 if self.signal == "none" else signal

    def new_state(self) -> Any:
        """The state of a lane before its first step; frozen, replaced by `observe`."""
        return None

    @abstractmethod
    def decide(self, state: Any, info: StepInfo, signal: Tensor | None) -> Decision:
        """What to do at this step. Changes nothing."""

    def observe(self, state: Any, info: StepInfo, signal: Tensor | None, decision: Decision) -> Any:
        """The lane's next state, after `decision` was carried out (the run may have overruled it)."""
        return state

    def learn(self, state: Any, info: StepInfo, decision: Decision, outcome: Outcome) -> Any:
        """The lane's next state, once the step has been taken; asked only of policies that `learn`. Tensors of the
        outcome are the state's to keep."""
        return state

    def settings(self) -> dict[str, Any]:
        """The fields, as JSON can hold them."""
        return {f.name: value if isinstance(value := getattr(self, f.name), (int, float, str, bool, type(None)))
                else str(value) for f in fields(self)}


POLICIES: Registry[ReusePolicy] = Registry("policy")
