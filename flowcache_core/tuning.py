"""Finds the threshold of a reuse policy for a wanted speed-up or PSNR: an uncached run that records distances, another
that is timed (the first run of a process is slower), a prediction, and real runs that verify it. Nobody should have to
guess 0.1 or 0.15."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .foresight import signals_of, walk
from .reuse.contract import Decision, Kind, ReusePolicy, SignalKind, StepInfo
from .reuse.policies.flowcache import FlowCache
from .reuse.signals import relative_l1
from .solvers.sigmas import SigmaTable
from .trace import Trace

SPEED_CLOSE, PSNR_CLOSE = 0.04, 0.4   # share and dB within which the search is content
ROUNDS = 6                            # verifying runs at most
BISECTIONS = 40
SKIP_COST = 0.01                      # of a computed step, until a run has shown it
RAMPS = (0.6, 1.6)                    # first chunk's share of the threshold in the per-chunk trials


@dataclass(frozen=True)
class Probe(ReusePolicy):
    """Computes every step and records how far the signal of `of` moves."""

    name = "probe"
    of: FlowCache = FlowCache()

    @property
    def signal(self) -> SignalKind:
        return self.of.signal

    def decide(self, state: Tensor | None, info: StepInfo, signal: Tensor | None) -> Decision:
        moved = None if state is None else relative_l1(signal, state)
        return Decision(Kind.COMPUTE, "probe", distance=moved)

    def observe(self, state: Any, info: StepInfo, signal: Tensor | None, decision: Decision) -> Tensor | None:
        return signal


@dataclass(frozen=True)
class Trial:
    """A verified setting: measured speed-up over the probe's run, and PSNR in dB against it."""

    policy: FlowCache
    speedup: float
    psnr_db: float
    computed_share: float


Verify = Callable[[ReusePolicy], tuple[Trace, float]]
"""Runs with a policy: its trace, and the PSNR against the uncached run."""


class Prediction:
    """What thresholds would do, from the distances and times of an uncached run."""

    def __init__(self, probe: Trace, timed: Trace, table: SigmaTable, policy: FlowCache) -> None:
        """probe: of a run with `Probe`, for its distances; timed: of an uncached run, for its times."""
        self.policy, self._table, self.skip_cost = policy, table, SKIP_COST
        denoising = [p for p in probe.passes if p.kind == "denoise"]
        self._chunks = len(probe.plan["chunks"])
        self._seconds = {(p.chunks[0], p.steps[0]): p.seconds for p in timed.passes if p.kind == "denoise"}
        self._other = timed.seconds - sum(self._seconds.values())
        first = {}
        for p in denoising:
            first.setdefault(p.chunks[0], [None] * table.steps)[p.steps[0]] = p.lanes[0].distance
        self._signals = {chunk: signals_of(distances) for chunk, distances in first.items()}

    def computed(self, policy: FlowCache) -> set[tuple[int, int]]:
        """The (chunk, step) that `policy` would compute."""
        return {(chunk, step) for chunk, signals in self._signals.items()
                for step, d in enumerate(walk(policy, self._table, chunk, self._chunks, signals.__getitem__))
                if d.computes}

    def speedup(self, policy: FlowCache) -> float:
        kept = self.computed(policy)
        spent = sum(s if place in kept else self.skip_cost * s for place, s in self._seconds.items())
        return (sum(self._seconds.values()) + self._other) / (spent + self._other)

    def learn_skip_cost(self, trace: Trace) -> None:
        """Takes the cost of a skipped step from a run that skipped some."""
        skipped = {(p.chunks[0], p.steps[0]): p.seconds for p in trace.passes if p.kind == "denoise" and not p.calls}
        if skipped:
            self.skip_cost = sum(skipped.values()) / sum(self._seconds[place] for place in skipped)

    def threshold_for(self, speedup: float, ramp: float = 1.0) -> FlowCache:
        """The policy whose predicted speed-up comes closest to `speedup`; ramp: first chunk against the mean."""
        low, high = 0.0, 100.0
        for _ in range(BISECTIONS):
            middle = (low * high) ** 0.5 if low > 0 else high / 1000
            if self.speedup(with_threshold(self.policy, middle, ramp)) < speedup:
                low = middle
            else:
                high = middle
        return min((with_threshold(self.policy, t, ramp) for t in (low, high)),
                   key=lambda policy: abs(self.speedup(policy) - speedup))

    @property
    def most(self) -> float:
        """The largest speed-up that any threshold gives."""
        return self.speedup(with_threshold(self.policy, 100.0))


def with_threshold(policy: FlowCache, threshold: float, ramp: float = 1.0) -> FlowCache:
    """`policy` with another threshold; ramp < 1 spares the first chunks, > 1 the last ones."""
    if ramp == 1.0:
        return replace(policy, threshold=f"{threshold:.6g}")
    return replace(policy, threshold=f"{min(100.0, ramp * threshold):.6g}->{min(100.0, (2 - ramp) * threshold):.6g}")


class Tuner:
    """Searches by prediction, verifies by running; `probe` and `timed` as in `Prediction`."""

    def __init__(self, probe: Trace, timed: Trace, table: SigmaTable, policy: FlowCache, verify: Verify) -> None:
        self.prediction, self._base, self._verify = Prediction(probe, timed, table, policy), timed.seconds, verify
        self.trials: list[Trial] = []

    def _try(self, policy: FlowCache) -> Trial:
        trace, psnr_db = self._verify(policy)
        self.prediction.learn_skip_cost(trace)
        self.trials.append(Trial(policy, self._base / trace.seconds, psnr_db, trace.computed_share))
        return self.trials[-1]

    def for_speedup(self, wanted: float) -> Trial:
        """Raises ValueError, naming the best possible, where no threshold is fast enough."""
        if not wanted > 1:
            raise ValueError(f"speed-up {wanted:g}: expected more than 1")
        if self.prediction.most < wanted * (1 - SPEED_CLOSE):
            policy = self.prediction.policy
            raise ValueError(f"a speed-up of {wanted:g} cannot be met: with {policy.warmup_steps} first and "
                             f"{policy.last_steps} last steps computed, the most is about {self.prediction.most:.2f}")
        aim = wanted
        for _ in range(ROUNDS):
            trial = self._try(self.prediction.threshold_for(aim))
            if abs(trial.speedup / wanted - 1) <= SPEED_CLOSE:
                break
            aim *= wanted / trial.speedup
        best = min(self.trials, key=lambda t: abs(t.speedup / wanted - 1))
        return self._ramped(best, lambda t: abs(t.speedup / wanted - 1) <= max(0.1, abs(best.speedup / wanted - 1)))

    def for_psnr(self, wanted: float) -> Trial:
        """Raises ValueError, naming the best that was seen, where even few skips cost more."""
        best = self._psnr_search(wanted, 1.0, 1.0)
        if best.psnr_db < wanted - 1:
            raise ValueError(f"a PSNR of {wanted:g} dB cannot be met: the best that skips anything has "
                             f"{max(t.psnr_db for t in self.trials):.1f} dB")
        speed = self.prediction.speedup(best.policy)
        at_equal_speed = {ramp: self._try(self.prediction.threshold_for(speed, ramp)) for ramp in RAMPS}
        ramp, better = max(at_equal_speed.items(), key=lambda item: item[1].psnr_db)
        if better.psnr_db <= best.psnr_db + PSNR_CLOSE:
            return best
        ramped = self._psnr_search(wanted, ramp, speed)   # turns the surplus of quality into speed
        close = max(1.0, abs(best.psnr_db - wanted))
        return max((t for t in (best, ramped) if abs(t.psnr_db - wanted) <= close), key=lambda t: t.speedup)

    def _psnr_search(self, wanted: float, ramp: float, low: float) -> Trial:
        """The trial closest to `wanted` dB between a predicted speed-up `low` that is too careful and the most."""
        high, tried = self.prediction.most, []
        for _ in range(ROUNDS):
            aim = (low * high) ** 0.5
            tried.append(self._try(self.prediction.threshold_for(aim, ramp)))
            if abs(tried[-1].psnr_db - wanted) <= PSNR_CLOSE:
                break
            low, high = (aim, high) if tried[-1].psnr_db > wanted else (low, aim)
        return min(tried, key=lambda t: abs(t.psnr_db - wanted))

    def _ramped(self, found: Trial, acceptable: Callable[[Trial], bool]) -> Trial:
        """A threshold that differs by chunk, where that gives more PSNR at the same predicted speed."""
        speed = self.prediction.speedup(found.policy)
        ramped = [self._try(self.prediction.threshold_for(speed, ramp)) for ramp in RAMPS]
        return max([found, *filter(acceptable, ramped)], key=lambda t: t.psnr_db)
