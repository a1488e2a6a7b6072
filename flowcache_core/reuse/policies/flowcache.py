"""FlowCache's chunk-wise reuse (arXiv 2602.10825, section 3; thresholds per chunk)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ...per_chunk import PerChunk, parse_per_chunk
from ...registry import knob
from ..contract import POLICIES, Decision, Kind, ReusePolicy, SignalKind, StepInfo
from ..signals import relative_l1

SIGNALS = ("time_modulation", "patch_embedding")


@dataclass(frozen=True)
class Accumulated:
    """before: the signal of the last step; total: distance since the last computed step; skips: skipped since."""

    before: Tensor | None = None
    total: float = 0.0
    skips: int = 0


@POLICIES.register("flowcache")
@dataclass(frozen=True)
class FlowCache(ReusePolicy):
    """Every chunk adds up how far its signal moved from step to step, and computes when the sum reaches its
    threshold. `time_modulation` depends on the timestep alone; `patch_embedding` on the chunk's content."""

    DISABLED: ClassVar[dict[str, Any]] = {"threshold": 0.0}

    threshold: PerChunk | float | str = knob(0.1, 0, 100, "relative change to let pass before a step is computed; a "
                                             "number, or per chunk as in '0:0.05, 1+:0.1' or '0.05->0.15'; 0 is off")
    distance_signal: SignalKind = knob("time_modulation", None, None, "what is compared from step to step: "
                                       "time_modulation (no content) or patch_embedding (content)")
    warmup_steps: int = knob(5, 1, 1000, "first steps of every chunk that are always computed")
    last_steps: int = knob(1, 0, 1000, "last steps of every chunk that are always computed")
    max_consecutive_skips: int = knob(0, 0, 1000, "compute after this many skips in a row; 0 is no limit")

    def __post_init__(self) -> None:
        super().__post_init__()
        threshold = parse_per_chunk(self.threshold)
        low, high = threshold.bounds()
        if not 0 <= low <= high <= 100:
            raise ValueError(f"threshold {threshold}: expected values from 0 (off) to 100")
        if self.distance_signal not in SIGNALS:
            raise ValueError(f"distance_signal {self.distance_signal!r}: choose one of {', '.join(SIGNALS)}")
        object.__setattr__(self, "threshold", threshold)

    @property
    def signal(self) -> SignalKind:
        return self.distance_signal

    def check(self, chunks: int) -> None:
        self.threshold.values(chunks)

    def new_state(self) -> Accumulated:
        return Accumulated()

    def decide(self, state: Accumulated, info: StepInfo, signal: Tensor | None) -> Decision:
        limit = self.threshold.at(info.chunk, info.chunks)
        if info.step < self.warmup_steps or state.before is None:
            return Decision(Kind.COMPUTE, "warm-up", limit=limit)
        if info.step >= info.steps - self.last_steps:
            return Decision(Kind.COMPUTE, "last steps", limit=limit)
        distance = relative_l1(signal, state.before)
        total = state.total + distance
        if not total < limit:
            return Decision(Kind.COMPUTE, "threshold reached", total, limit, distance)
        if self.max_consecutive_skips and state.skips >= self.max_consecutive_skips:
            return Decision(Kind.COMPUTE, "longest run of skips", total, limit, distance)
        return Decision(Kind.REUSE, "below threshold", total, limit, distance)

    def observe(self, state: Accumulated, info: StepInfo, signal: Tensor | None, decision: Decision) -> Accumulated:
        if decision.computes:
            return Accumulated(signal)
        return Accumulated(signal, decision.value, state.skips + 1)
