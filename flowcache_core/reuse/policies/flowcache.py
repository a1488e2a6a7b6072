"""FlowCache's chunk-wise reuse (arXiv 2602.10825, section 3; thresholds per chunk)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ...per_chunk import PerChunk
from ...registry import knob
from ...saved import saved
from ..contract import NOT_FINITE, POLICIES, Decision, Kind, RunFacts, SignalKind, StepInfo
from ..polynomials import NO_TABLE, TABLES, check_table
from ..thresholds import ThresholdPolicy, threshold_knob

SIGNALS = ("time_modulation", "patch_embedding", "latent", "history", "guided_velocity", "hidden")
OF_THE_STEP_BEFORE = ("guided_velocity", "hidden")


@saved
@dataclass(frozen=True)
class Accumulated:
    """before: the signal of the last step; total: distance since the last computed step; skips: skipped since."""

    before: Tensor | None = None
    total: float = 0.0
    skips: int = 0


@POLICIES.register("flowcache")
@dataclass(frozen=True)
class FlowCache(ThresholdPolicy):
    """Every chunk adds up how far its signal moved from step to step, and computes when the sum reaches its
    threshold. `time_modulation` depends on the timestep alone; `patch_embedding` on the chunk's content."""

    DISABLED: ClassVar[dict[str, Any]] = {"threshold": 0.0}

    threshold: PerChunk | float | str = threshold_knob(0.1, "relative change to let pass before a step is computed")
    distance_signal: SignalKind = knob("time_modulation", None, None, "what is compared from step to step: "
                                       "time_modulation (no content); patch_embedding, latent (content); history (the "
                                       "chunk before); guided_velocity, hidden (of the step before)")
    warmup_steps: int = knob(5, 0, 1000, "first steps of every chunk that are always computed")
    last_steps: int = knob(1, 0, 1000, "last steps of every chunk that are always computed")
    max_consecutive_skips: int = knob(0, 0, 1000, "compute after this many skips in a row; 0 is no limit")
    calibration: str = knob(NO_TABLE, None, None, "polynomial that turns the time-modulation distance into an expected "
                            f"change: {NO_TABLE}, {', '.join(TABLES)}")
    conformance: bool = knob(False, None, None, "decide as the authors' release does, faults included")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distance_signal not in SIGNALS:
            raise ValueError(f"distance_signal {self.distance_signal!r}: choose one of {', '.join(SIGNALS)}")
        check_table(self.calibration, self.distance_signal, self.conformance)

    @property
    def signal(self) -> SignalKind:
        return self.distance_signal

    @property
    def alike(self) -> bool:
        return self.distance_signal == "time_modulation"

    def check_run(self, facts: RunFacts) -> None:
        if self.distance_signal in OF_THE_STEP_BEFORE and facts.stage == "velocity":
            raise ValueError(f"distance_signal {self.distance_signal} with the predictor {facts.predictor}: it does "
                             "not move while a velocity stands in; use residual or taylor_residual")

    @property
    def _released_content(self) -> bool:
        return self.conformance and self.distance_signal == "patch_embedding"

    @property
    def _any_threshold(self) -> bool:
        return self.conformance

    def new_state(self) -> Accumulated:
        return Accumulated()

    def _forced(self, state: Accumulated, info: StepInfo) -> str | None:
        """Why the step is computed without a look at the signal."""
        if self._released_content and info.edge_row:
            return "first or last row"
        if info.step < self.warmup_steps or state.before is None:
            return "warm-up"
        return "last steps" if info.step >= info.steps - self.last_steps else None

    def _change(self, distance: float) -> float:
        if self.calibration == NO_TABLE:
            return distance
        table = TABLES[self.calibration]
        return table(distance) if self.conformance else table.clamped(distance)

    def decide(self, state: Accumulated, info: StepInfo, signal: Tensor | None) -> Decision:
        limit = self.limit(info)
        forced = self._forced(state, info)
        if forced:
            return Decision(Kind.COMPUTE, forced, limit=limit)
        if signal is None:
            return Decision(Kind.COMPUTE, "nothing to look at", limit=limit)
        distance = info.measure(signal, state.before, 1e-8 if self.distance_signal == "patch_embedding" else 0.0)
        if not math.isfinite(distance):
            return Decision(Kind.COMPUTE, NOT_FINITE, distance, limit, distance)
        total = state.total + self._change(distance)
        if not total < limit:
            return Decision(Kind.COMPUTE, "threshold reached", total, limit, distance)
        if self.max_consecutive_skips and state.skips >= self.max_consecutive_skips:
            return Decision(Kind.COMPUTE, "longest run of skips", total, limit, distance)
        return Decision(Kind.REUSE, "below threshold", total, limit, distance)

    def observe(self, state: Accumulated, info: StepInfo, signal: Tensor | None, decision: Decision) -> Accumulated:
        if self._released_content and (info.edge_row or state.before is None):
            return Accumulated(signal, state.total, state.skips)
        if decision.computes:
            return Accumulated(signal)
        return Accumulated(signal, decision.value, state.skips + 1)
