"""UniPC of order 2 (B(h) = expm1) for flow matching, predicting the clean sample; SkyReels-V2's solver.

With `alpha = 1 - sigma` and `lambda = ln(alpha / sigma)`: every step first corrects the sample with the new model
output, then predicts the next one. UniPC: Zhao et al., arXiv 2302.04867.
"""

import math
from dataclasses import dataclass, replace

from torch import Tensor

from ..saved import saved
from .base import SOLVERS, Solver
from .sigmas import SigmaTable


@saved
@dataclass(frozen=True)
class UniPCState:
    """clean: estimates of the clean sample at the last two steps, oldest first. start: the sample from which the
    last prediction set out. order: the order of that prediction (0 before the first step)."""

    clean: tuple[Tensor, ...] = ()
    start: Tensor | None = None
    order: int = 0


def _log_snr(sigma: float) -> float:
    if sigma in (0, 1):
        return math.inf if sigma == 0 else -math.inf   # from pure noise, the first step is plain first order
    return math.log1p(-sigma) - math.log(sigma)


@SOLVERS.register("unipc")
@dataclass(frozen=True)
class UniPC(Solver):
    """Order 2 with the corrector always on; the first and the last step are of order 1."""

    def new_state(self) -> UniPCState:
        return UniPCState()

    def step(self, state: UniPCState, x: Tensor, velocity: Tensor, index: int, table: SigmaTable,
             noise: Tensor | None = None) -> tuple[Tensor, UniPCState]:
        clean = x - table.sigmas[index] * velocity
        if state.order:
            x = self._correct(state, clean, index, table)
        order = min(2, table.steps - index, len(state.clean) + 1)
        following = self._predict(state, x, clean, index, table, order)
        return following, UniPCState((*state.clean[-1:], clean), x, order)

    def moved(self, state: UniPCState, by: Tensor) -> UniPCState:
        return state if state.start is None else replace(state, start=state.start + by)

    @staticmethod
    def _correct(state: UniPCState, clean: Tensor, index: int, table: SigmaTable) -> Tensor:
        before, now = table.sigmas[index - 1], table.sigmas[index]
        h = _log_snr(now) - _log_snr(before)
        phi, alpha = math.expm1(-h), 1 - now
        last = state.clean[-1]
        base = now / before * state.start - alpha * phi * last
        if state.order == 1:
            return base - alpha * phi * 0.5 * (clean - last)
        ratio = (_log_snr(table.sigmas[index - 2]) - _log_snr(before)) / h
        first = phi / -h - 1
        b1, b2 = first / phi, 2 * (first / -h - 0.5) / phi
        old = (b2 - b1) / (ratio - 1)   # solves old + new = b1, ratio * old + new = b2
        slope = (state.clean[-2] - last) / ratio
        return base - alpha * phi * (old * slope + (b1 - old) * (clean - last))

    @staticmethod
    def _predict(state: UniPCState, x: Tensor, clean: Tensor, index: int, table: SigmaTable, order: int) -> Tensor:
        now, following = table.sigmas[index], table.sigmas[index + 1]
        if following == 0:
            return clean
        h = _log_snr(following) - _log_snr(now)
        phi, alpha = math.expm1(-h), 1 - following
        base = following / now * x - alpha * phi * clean
        if order == 1:
            return base
        ratio = (_log_snr(table.sigmas[index - 1]) - _log_snr(now)) / h
        return base - alpha * phi * 0.5 * (state.clean[-1] - clean) / ratio
