"""Finds the threshold of a reuse policy for a wanted speed-up or PSNR: an uncached run that records distances, another
that is timed (the first run of a process is slower), a prediction, and real runs that verify it. Nobody should have to
guess 0.1 or 0.15."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from .reuse.contract import ReusePolicy
from .reuse.policies.flowcache import FlowCache
from .solvers.sigmas import SigmaTable
from .threshold_prediction import PLAIN, Prediction, Shape, led, ramped, spared
from .trace import Trace

SPEED_CLOSE, PSNR_CLOSE = 0.04, 0.4   # share and dB within which the search is content
ROUNDS = 6                            # verifying runs at most
SHAPES = led(0.35), ramped(0.6), ramped(1.6)   # per-chunk trials: the first chunk, the first ones, the last ones spared


@dataclass(frozen=True)
class Trial:
    """A verified setting: measured speed-up over the probe's run, and PSNR in dB against it."""

    policy: FlowCache
    speedup: float
    psnr_db: float
    computed_share: float


Verify = Callable[[ReusePolicy], tuple[Trace, float]]
"""Runs with a policy: its trace, and the PSNR against the uncached run."""


def check_wanted(speedup: float | None, psnr_db: float | None) -> None:
    """Raises ValueError for a target that is none, before anything is sampled."""
    if speedup is not None and not 1 < speedup < math.inf:
        raise ValueError(f"speed-up {speedup:g}: expected a number of more than 1, as 2 for half the time")
    if psnr_db is not None and not 0 < psnr_db < math.inf:
        raise ValueError(f"PSNR {psnr_db:g} dB: expected a number of more than 0, as 35")


class Tuner:
    """Searches by prediction, verifies by running; `probe` and `timed` as in `Prediction`."""

    def __init__(self, probe: Trace, timed: Trace, table: SigmaTable, policy: FlowCache, verify: Verify,
                 first_table: SigmaTable | None = None) -> None:
        self.prediction = Prediction(probe, timed, table, policy, first_table)
        self._base, self._verify = timed.seconds, verify
        self.trials: list[Trial] = []

    def _try(self, policy: FlowCache) -> Trial:
        trace, psnr_db = self._verify(policy)
        self.prediction.learn_skip_cost(trace)
        self.trials.append(Trial(policy, self._base / trace.seconds, psnr_db, trace.computed_share))
        return self.trials[-1]

    def for_speedup(self, wanted: float) -> Trial:
        """Raises ValueError, naming the best possible, where no threshold is fast enough."""
        check_wanted(wanted, None)
        if self.prediction.most < wanted * (1 - SPEED_CLOSE):
            raise ValueError(f"a speed-up of {wanted:g} cannot be met: {self.prediction.room}, the most is about "
                             f"{self.prediction.most:.2f}")
        aim = wanted
        for _ in range(ROUNDS):
            policy = self.prediction.threshold_for(aim)
            if any(trial.policy == policy for trial in self.trials):
                break
            trial = self._try(policy)
            if abs(trial.speedup / wanted - 1) <= SPEED_CLOSE:
                break
            aim *= wanted / trial.speedup
        # What skips nothing is as fast as the uncached run, whatever the clock says.
        best = min([t for t in self.trials if t.computed_share < 1] or self.trials,
                   key=lambda t: abs(t.speedup / wanted - 1))
        return self._shaped(best, lambda t: abs(t.speedup / wanted - 1) <= max(0.1, abs(best.speedup / wanted - 1)))

    def for_psnr(self, wanted: float) -> Trial:
        """Raises ValueError, naming the best that was seen, where even few skips cost more, or all cost less."""
        check_wanted(None, wanted)
        if self.prediction.most <= 1:
            raise ValueError(f"a PSNR of {wanted:g} dB cannot be met by skipping: {self.prediction.room}, nothing is "
                             "left to skip")
        best = min((self._psnr_search(wanted, PLAIN, 1.0), *self._mixed(wanted)), key=lambda t: abs(t.psnr_db - wanted))
        better = [t for t in self.trials if t.psnr_db >= wanted and t.computed_share < 1]
        if best.psnr_db < wanted - 1 and better:   # nothing comes near: rather too good than too bad
            return max(better, key=lambda t: t.speedup)
        if best.psnr_db < wanted - 1:
            raise ValueError(f"a PSNR of {wanted:g} dB cannot be met: the best that skips anything has "
                             f"{max(t.psnr_db for t in self.trials if t.computed_share < 1):.1f} dB")
        if best.psnr_db > wanted + 1 and (least := self._try(self.prediction.fastest)).psnr_db > wanted + 1:
            raise ValueError(f"a PSNR of {wanted:g} dB cannot be met: {self.prediction.room}, what skips all the rest "
                             f"still has {least.psnr_db:.1f} dB, at {least.speedup:.2f} times the speed")
        speed = self.prediction.speedup(best.policy)
        at_equal_speed = {shape: self._try(self.prediction.threshold_for(speed, shape)) for shape in SHAPES}
        shape, better = max(at_equal_speed.items(), key=lambda item: item[1].psnr_db)
        if better.psnr_db <= best.psnr_db + PSNR_CLOSE:
            return best
        faster = self._psnr_search(wanted, shape, speed)   # turns the surplus of quality into speed
        close = max(1.0, abs(best.psnr_db - wanted))
        return max((t for t in (best, faster) if abs(t.psnr_db - wanted) <= close), key=lambda t: t.speedup)

    def _psnr_search(self, wanted: float, shape: Shape, low: float) -> Trial:
        """The trial of a shape closest to `wanted` dB between a predicted speed-up `low`, which is too careful, and the
        most."""
        high, tried = self.prediction.most, []
        for _ in range(ROUNDS):
            aim = (low * high) ** 0.5
            policy = self.prediction.threshold_for(aim, shape)
            known = next((trial for trial in self.trials if trial.policy == policy), None)
            tried.append(known or self._try(policy))
            if abs(tried[-1].psnr_db - wanted) <= PSNR_CLOSE:
                break
            low, high = (aim, high) if tried[-1].psnr_db > wanted else (low, aim)
        return min(tried, key=lambda t: abs(t.psnr_db - wanted))

    def _mixed(self, wanted: float) -> list[Trial]:
        """Where thresholds miss `wanted` dB on either side and none is near, since one step more or less is computed in
        all chunks: the more careful threshold for the first chunks, the other one, or a bolder one, for the rest."""
        single = [t for t in self.trials if len(set(t.policy.threshold.bounds())) == 1]
        above, below = ([t for t in single if (t.psnr_db > wanted) == side] for side in (True, False))
        if min(abs(t.psnr_db - wanted) for t in self.trials) <= PSNR_CLOSE or not above or not below:
            return []
        careful, _ = min(above, key=lambda t: t.psnr_db).policy.threshold.bounds()
        bold, _ = max(below, key=lambda t: t.psnr_db).policy.threshold.bounds()

        def careful_for(chunks: int) -> FlowCache:
            return replace(self.prediction.policy, threshold=spared(chunks, careful)(bold))

        low, high, tried = 0, self.prediction.chunks, []   # this many chunks are treated with care: too few, too many
        while high - low > 1 and not (tried and abs(tried[-1].psnr_db - wanted) <= PSNR_CLOSE):
            chunks = (low + high) // 2
            tried.append(self._try(careful_for(chunks)))
            low, high = (low, chunks) if tried[-1].psnr_db > wanted else (chunks, high)
        if not tried or abs(tried[-1].psnr_db - wanted) <= PSNR_CLOSE or high == self.prediction.chunks:
            return tried
        return [*tried, self._psnr_search(wanted, spared(high, careful), self.prediction.speedup(careful_for(high)))]

    def _shaped(self, found: Trial, acceptable: Callable[[Trial], bool]) -> Trial:
        """A threshold that differs by chunk, where that gives more PSNR at the same predicted speed."""
        speed = self.prediction.speedup(found.policy)
        shaped = [self._try(self.prediction.threshold_for(speed, shape)) for shape in SHAPES]
        return max([found, *filter(acceptable, shaped)], key=lambda t: t.psnr_db)
