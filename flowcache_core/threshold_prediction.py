"""What thresholds would do, from the distances and times of an uncached run."""

from collections.abc import Callable
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

Shape = Callable[[float], str]
"""From one number to the words of a threshold that may differ by chunk."""
PLAIN: Shape = "{:.6g}".format


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

    def threshold_for(self, speedup: float, shape: Shape = PLAIN) -> FlowCache:
        """The policy whose predicted speed-up comes closest to `speedup`, among the thresholds of one shape."""
        low, high = 0.0, float(HIGHEST)
        for _ in range(BISECTIONS):
            middle = (low * high) ** 0.5 if low > 0 else high / 1000
            if self.speedup(self._with(shape(middle))) < speedup:
                low = middle
            else:
                high = middle
        return min((self._with(shape(t)) for t in (low, high)), key=lambda policy: abs(self.speedup(policy) - speedup))

    def _with(self, threshold: str) -> FlowCache:
        return replace(self.policy, threshold=threshold)

    @property
    def fastest(self) -> FlowCache:
        """The policy that skips all that may be skipped."""
        return self._with(str(HIGHEST))

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


def ramped(share: float) -> Shape:
    """A straight line over the chunks whose mean is the number; share: of the first chunk, < 1 spares it, > 1 the last
    one."""
    return lambda threshold: "->".join(f"{min(HIGHEST, part * threshold):.6g}" for part in (share, 2 - share))


def spared(chunks: int, threshold: float) -> Shape:
    """The first chunks have `threshold`, and only the others the number."""
    first = "0" if chunks == 1 else f"0-{chunks - 1}"
    return lambda bold: f"{first}: {threshold:.6g}, {chunks}+: {bold:.6g}"


def led(share: float) -> Shape:
    """The first chunk, on which all others build, has a share of the number."""
    return lambda threshold: spared(1, share * threshold)(threshold)
