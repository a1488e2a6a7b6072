"""What thresholds would do, from the distances and times of an uncached run."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .foresight import signals_of, walk
from .reuse.contract import Decision, Kind, ReusePolicy, SignalKind, StepInfo
from .reuse.policies.flowcache import FlowCache
from .reuse.signals import relative_l1
from .reuse.thresholds import HIGHEST
from .solvers.sigmas import SigmaTable
from .trace import PassRecord, Trace

BISECTIONS = 40
SKIP_COST = 0.01   # of a computed step, until a run has shown it


@dataclass(frozen=True)
class Probe(ReusePolicy):
    """Computes every step and records how far the signal of `of` moves."""

    name = "probe"
    of: FlowCache = FlowCache()

    @property
    def signal(self) -> SignalKind:
        return self.of.signal

    def decide(self, state: Tensor | None, info: StepInfo, signal: Tensor | None) -> Decision:
        moved = None if state is None or signal is None else relative_l1(signal, state)
        return Decision(Kind.COMPUTE, "probe", distance=moved)

    def observe(self, state: Any, info: StepInfo, signal: Tensor | None, decision: Decision) -> Tensor | None:
        return signal


class Prediction:
    """What thresholds would do, from the distances and times of an uncached run."""

    def __init__(self, probe: Trace, timed: Trace, table: SigmaTable, policy: FlowCache,
                 first_table: SigmaTable | None = None) -> None:
        """probe: of a run with `Probe`, for its distances; timed: of an uncached run, for its times; first_table: of
        chunk 0, where it takes other steps."""
        self.policy, self._table, self._first_table, self.skip_cost = policy, table, first_table, SKIP_COST
        self.chunks = len(probe.plan["chunks"])
        self._seconds = {_places(p): p.seconds for p in timed.passes if p.kind == "denoise"}
        self._other = timed.seconds - sum(self._seconds.values())
        found: dict[int, list[float | None]] = {}
        for p in probe.passes:
            for lane in p.lanes:
                if lane.stream == p.lanes[0].stream and lane.item == p.lanes[0].item:
                    found.setdefault(lane.chunk, [None] * self._table_of(lane.chunk).steps)[lane.step] = lane.distance
        self._signals = {chunk: signals_of(distances) for chunk, distances in found.items()}

    def _table_of(self, chunk: int) -> SigmaTable:
        return self._first_table if self._first_table is not None and chunk == 0 else self._table

    def computed(self, policy: FlowCache) -> set[tuple[int, int]]:
        """The (chunk, step) that `policy` would compute."""
        return {(chunk, step) for chunk, signals in self._signals.items()
                for step, d in enumerate(walk(policy, self._table_of(chunk), chunk, self.chunks, signals.__getitem__))
                if d.computes}

    def speedup(self, policy: FlowCache) -> float:
        """A pass is skipped where all of its chunks are."""
        kept = self.computed(policy)
        spent = sum(s if kept & places else self.skip_cost * s for places, s in self._seconds.items())
        return (sum(self._seconds.values()) + self._other) / (spent + self._other)

    def learn_skip_cost(self, trace: Trace) -> None:
        """Takes the cost of a skipped step from a run that skipped some."""
        skipped = {_places(p): p.seconds for p in trace.passes if p.kind == "denoise" and not p.calls}
        if skipped:
            self.skip_cost = sum(skipped.values()) / sum(self._seconds[places] for places in skipped)

    def threshold_for(self, speedup: float, ramp: float = 1.0) -> FlowCache:
        """The policy whose predicted speed-up comes closest to `speedup`; ramp: first chunk against the mean."""
        low, high = 0.0, float(HIGHEST)
        for _ in range(BISECTIONS):
            middle = (low * high) ** 0.5 if low > 0 else high / 1000
            if self.speedup(with_threshold(self.policy, middle, ramp)) < speedup:
                low = middle
            else:
                high = middle
        return min((with_threshold(self.policy, t, ramp) for t in (low, high)),
                   key=lambda policy: abs(self.speedup(policy) - speedup))

    @property
    def fastest(self) -> FlowCache:
        """The policy that skips all that may be skipped."""
        return with_threshold(self.policy, HIGHEST)

    @property
    def most(self) -> float:
        """The largest speed-up that any threshold gives."""
        return self.speedup(self.fastest)

    @property
    def room(self) -> str:
        """What bounds it, in words."""
        return f"with {self.policy.warmup_steps} first and {self.policy.last_steps} last steps computed"


def _places(p: PassRecord) -> frozenset[tuple[int, int]]:
    """Chunk and step of everything that moves in a pass."""
    return frozenset(zip(p.chunks, p.steps, strict=True))


def with_threshold(policy: FlowCache, threshold: float, ramp: float = 1.0) -> FlowCache:
    """`policy` with another threshold; ramp < 1 spares the first chunks, > 1 the last ones."""
    if ramp == 1.0:
        return replace(policy, threshold=f"{threshold:.6g}")
    first, last = (min(HIGHEST, share * threshold) for share in (ramp, 2 - ramp))
    return replace(policy, threshold=f"{first:.6g}->{last:.6g}")
