"""MagCache (arXiv 2506.09045): the error of a skip from how sizes change from step to step, calibrated once."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from ...per_chunk import PerChunk
from ...registry import knob
from ...saved import saved
from ..contract import POLICIES, Decision, Kind, RunFacts, StepInfo
from ..magnitudes import Magnitudes, load_magnitudes
from ..thresholds import ThresholdPolicy, threshold_knob


@saved
@dataclass(frozen=True)
class Skipped:
    """sigma: of the last computed step; error: estimated since then; skips: since then."""

    sigma: float | None = None
    error: float = 0.0
    skips: int = 0


@POLICIES.register("magcache")
@dataclass(frozen=True)
class MagCache(ThresholdPolicy):
    """Knows from one calibration run how the size of what a step adds changes from step to step. A skip errs by about
    `|1 - ratio of sizes|`; skips go on while the sum stays below the threshold. Looks at nothing, so its decisions are
    known before sampling."""

    DISABLED: ClassVar[dict[str, Any]] = {"threshold": 0.0}

    calibration: str = knob("", None, None, "path of a calibration file, made with the command calibrate")
    threshold: PerChunk | float | str = threshold_knob(0.06, "estimated error to let pass before a step is computed")
    max_consecutive_skips: int = knob(4, 0, 1000, "compute after this many skips in a row; 0 is no limit")
    warmup_share: float = knob(0.2, 0, 1, "share of a chunk's steps that are always computed at its start")
    last_steps: int = knob(1, 0, 1000, "last steps of every chunk that are always computed")
    other_steps: bool = knob(False, None, None, "take a calibration of another step count, interpolated over the noise")
    magnitudes: Magnitudes | None = field(default=None, repr=False, compare=False,
                                          metadata={"doc": "read from the calibration"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.magnitudes is None:
            object.__setattr__(self, "magnitudes", load_magnitudes(self.calibration))

    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in super().settings().items() if name != "magnitudes"}

    def check_run(self, facts: RunFacts) -> None:
        known, steps = self.magnitudes, len(facts.sigmas) - 1
        if known.steps != steps and not self.other_steps:
            raise ValueError(f"calibration {self.calibration!r} is of {known.steps} steps and this run takes {steps}: "
                             "calibrate again, or set other_steps to interpolate it over the noise")
        if not facts.same_network(known.fingerprint):
            raise ValueError(f"calibration {self.calibration!r} is of another network: calibrate again with this one")
        if known.predictor != facts.predictor:
            raise ValueError(f"calibration {self.calibration!r} is of the predictor {known.predictor} and this run "
                             f"uses {facts.predictor}: use the same, or calibrate again")
        missing = [stream for stream in facts.streams if stream not in known.ratios]
        if missing:
            raise ValueError(f"calibration {self.calibration!r} has no stream {missing[0]}: calibrate again with the "
                             "guidance of this run")

    def new_state(self) -> Skipped:
        return Skipped()

    def decide(self, state: Skipped, info: StepInfo, signal: Tensor | None) -> Decision:
        limit = self.limit(info)
        if info.step < math.ceil(self.warmup_share * info.steps) or state.sigma is None:
            return Decision(Kind.COMPUTE, "warm-up", limit=limit)
        if info.step >= info.steps - self.last_steps:
            return Decision(Kind.COMPUTE, "last steps", limit=limit)
        distance = abs(1 - self.magnitudes.ratio(info.stream, state.sigma, info.sigma))
        error = state.error + distance
        if not error < limit:
            return Decision(Kind.COMPUTE, "threshold reached", error, limit, distance)
        if self.max_consecutive_skips and state.skips >= self.max_consecutive_skips:
            return Decision(Kind.COMPUTE, "longest run of skips", error, limit, distance)
        return Decision(Kind.REUSE, "below threshold", error, limit, distance)

    def observe(self, state: Skipped, info: StepInfo, signal: Tensor | None, decision: Decision) -> Skipped:
        if decision.computes or decision.value is None:
            return Skipped(info.sigma)
        return Skipped(state.sigma, decision.value, state.skips + 1)
