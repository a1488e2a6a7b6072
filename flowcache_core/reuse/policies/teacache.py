"""TeaCache (arXiv 2411.19108): one decision for all chunks, the baseline that chunk-wise reuse repairs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ...per_chunk import PerChunk
from ...registry import knob
from ...saved import saved
from ..contract import NOT_FINITE, POLICIES, Decision, Kind, SignalKind, StepInfo
from ..polynomials import NO_TABLE, TABLES, check_table
from ..thresholds import ThresholdPolicy, threshold_knob

SIGNALS = ("time_modulation", "patch_embedding")


@saved
@dataclass(frozen=True)
class RowAccumulated:
    """before: the signals of the last row, by chunk; total: distance since the last computed row."""

    before: tuple[tuple[int, Tensor], ...] = ()
    total: float = 0.0


@POLICIES.register("teacache")
@dataclass(frozen=True)
class TeaCache(ThresholdPolicy):
    """Adds up how far the signal of all chunks in flight moves from row to row, and computes the whole row when the sum
    reaches the threshold. Chunks at quite different noise share one decision; a row in which a chunk starts is
    computed."""

    DISABLED: ClassVar[dict[str, Any]] = {"threshold": 0.0}
    per_row: ClassVar[bool] = True

    threshold: PerChunk | float | str = threshold_knob(0.1, "relative change to let pass before a row is computed; of "
                                                       "the oldest chunk in flight")
    distance_signal: SignalKind = knob("time_modulation", None, None, "what is compared from row to row: "
                                       "time_modulation (no content) or patch_embedding (content)")
    warmup_rows: int = knob(5, 0, 10000, "first rows of the run that are always computed")
    last_rows: int = knob(1, 0, 10000, "last rows of the run that are always computed")
    calibration: str = knob(NO_TABLE, None, None, "polynomial that turns the time-modulation distance into an expected "
                            f"change: {NO_TABLE}, {', '.join(TABLES)}")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distance_signal not in SIGNALS:
            raise ValueError(f"distance_signal {self.distance_signal!r}: choose one of {', '.join(SIGNALS)}")
        check_table(self.calibration, self.distance_signal)

    @property
    def signal(self) -> SignalKind:
        return self.distance_signal

    def new_state(self) -> RowAccumulated:
        return RowAccumulated()

    def decide(self, state: RowAccumulated, info: StepInfo, signal: Mapping[int, Tensor]) -> Decision:
        limit = self.limit(info)
        if info.step < self.warmup_rows or not state.before:
            return Decision(Kind.COMPUTE, "warm-up", limit=limit)
        if info.step >= info.steps - self.last_rows:
            return Decision(Kind.COMPUTE, "last steps", limit=limit)
        pairs = [(signal[chunk], before) for chunk, before in state.before if chunk in signal]
        if not pairs:
            return Decision(Kind.COMPUTE, "no chunk of the last row goes on", limit=limit)
        distance = joint_distance(pairs)
        if not math.isfinite(distance):
            return Decision(Kind.COMPUTE, NOT_FINITE, distance, limit, distance)
        change = distance if self.calibration == NO_TABLE else TABLES[self.calibration].clamped(distance)
        total = state.total + change
        if not total < limit:
            return Decision(Kind.COMPUTE, "threshold reached", total, limit, distance)
        return Decision(Kind.REUSE, "below threshold", total, limit, distance)

    def observe(self, state: RowAccumulated, info: StepInfo, signal: Mapping[int, Tensor], decision: Decision
                ) -> RowAccumulated:
        return RowAccumulated(tuple(sorted(signal.items())), 0.0 if decision.computes else decision.value)


def joint_distance(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """Relative L1 of several (now, before) as if they were one tensor."""
    moved = sum(float((now.float() - before.float()).abs().sum()) for now, before in pairs)
    size = sum(float(before.float().abs().sum()) for _, before in pairs)
    return moved / size if size else math.nan
