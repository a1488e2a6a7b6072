"""EasyCache (arXiv 2507.02860): the error of a skip from how far the latent moves and how the output has followed."""

import math
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, ClassVar

from torch import Tensor

from ...per_chunk import PerChunk
from ...registry import knob
from ...saved import saved
from ..contract import NOT_FINITE, POLICIES, Decision, Kind, Outcome, SignalKind, StepInfo
from ..thresholds import ThresholdPolicy, threshold_knob


@saved
@dataclass(frozen=True)
class Followed:
    """latent: of the last step; computed_latent, velocity: of the last computed one; rates: change of the output for
    each change of the latent, newest last; total: estimated error since the last computed step; skips: since then."""

    latent: Tensor | None = None
    computed_latent: Tensor | None = None
    velocity: Tensor | None = None
    rates: tuple[float, ...] = ()
    total: float = 0.0
    skips: int = 0


def _mean(x: Tensor) -> float:
    return float(x.float().abs().mean())


@POLICIES.register("easycache")
@dataclass(frozen=True)
class EasyCache(ThresholdPolicy):
    """Estimates the relative change of the output as `rate * change of the latent / size of the output`, with the rate
    measured at the last two computed steps, adds it up, and computes when the sum reaches the threshold. The first
    stream decides for all. Looks at nothing inside the network."""

    DISABLED: ClassVar[dict[str, Any]] = {"threshold": 0.0}
    per_stream: ClassVar[bool] = False
    learns: ClassVar[bool] = True

    threshold: PerChunk | float | str = threshold_knob(0.05, "estimated relative change of the output to let pass "
                                                       "before a step is computed")
    warmup_share: float = knob(0.2, 0, 1, "share of a chunk's steps that are always computed at its start")
    last_steps: int = knob(1, 0, 1000, "last steps of every chunk that are always computed")
    max_consecutive_skips: int = knob(0, 0, 1000, "compute after this many skips in a row; 0 is no limit")
    rates: int = knob(1, 1, 100, "take the median of so many last rates; 1 is the paper's")

    @property
    def signal(self) -> SignalKind:
        return "latent"

    def state_bytes(self, signal: int, latent: int) -> int:
        return 3 * latent

    def new_state(self) -> Followed:
        return Followed()

    def decide(self, state: Followed, info: StepInfo, signal: Tensor | None) -> Decision:
        limit = self.limit(info)
        if info.step < math.ceil(self.warmup_share * info.steps) or not state.rates:
            return Decision(Kind.COMPUTE, "warm-up", limit=limit)
        if info.step >= info.steps - self.last_steps:
            return Decision(Kind.COMPUTE, "last steps", limit=limit)
        size = _mean(state.velocity)
        moved = _mean(signal - state.latent) / size if size else math.nan
        total = state.total + median(state.rates) * moved
        if not math.isfinite(total):
            return Decision(Kind.COMPUTE, NOT_FINITE, total, limit, moved)
        if not total < limit:
            return Decision(Kind.COMPUTE, "threshold reached", total, limit, moved)
        if self.max_consecutive_skips and state.skips >= self.max_consecutive_skips:
            return Decision(Kind.COMPUTE, "longest run of skips", total, limit, moved)
        return Decision(Kind.REUSE, "below threshold", total, limit, moved)

    def observe(self, state: Followed, info: StepInfo, signal: Tensor | None, decision: Decision) -> Followed:
        if decision.computes:
            return replace(state, latent=signal, total=0.0, skips=0)
        return replace(state, latent=signal, total=decision.value, skips=state.skips + 1)

    def learn(self, state: Followed, info: StepInfo, decision: Decision, outcome: Outcome) -> Followed:
        if not decision.computes:
            return state
        rates = state.rates
        if state.velocity is not None:
            moved, followed = _mean(state.latent - state.computed_latent), _mean(outcome.velocity - state.velocity)
            rates = (*rates, followed / moved if moved else math.inf if followed else 0.0)[-self.rates:]
        return replace(state, computed_latent=state.latent, velocity=outcome.velocity, rates=rates)
