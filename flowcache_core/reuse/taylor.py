"""First-order predictors: the last two computed values, continued as a straight line over the noise level.

TaylorSeer's m = 1 (ICCV 2025) for steps of unequal length, as SCOPE (arXiv 2604.02979) has it: over sigma, not over the
step's index.
"""

from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..registry import check_knobs, knob
from ..saved import saved
from .predictors import PREDICTORS, Predictor, Span, Stage


@saved
@dataclass(frozen=True)
class Trend:
    """value: of the last computed step, at noise `sigma`; change: from the one before, `interval` of noise away. Both
    noises are numbers, or tensors after a partial step, when they differ by token; 0 of interval: one value so far."""

    value: Tensor
    change: Tensor
    sigma: Tensor | float
    interval: Tensor | float

    @property
    def nbytes(self) -> int:
        return sum(getattr(getattr(self, f.name), "nbytes", 0) for f in fields(self))


@dataclass(frozen=True)
class FirstOrder(Predictor):
    """reach bounds how far a line is followed, in lengths of the interval that it was drawn through."""

    extrapolates: ClassVar[bool] = True

    reach: float = knob(2.0, 0, 1000, "how far a line is followed, in lengths of the interval it was drawn through; 0 "
                        "repeats the last value")

    def __post_init__(self) -> None:
        check_knobs(self)

    def _value(self, value_in: Tensor, value_out: Tensor) -> Tensor:
        return value_out.clone()

    def keep(self, value_in: Tensor | None, value_out: Tensor, span: Span) -> Trend:
        value = self._value(value_in, value_out)
        return Trend(value, torch.zeros_like(value), span.sigma, 0.0)

    def renew(self, kept: Trend, value_in: Tensor | None, value_out: Tensor, span: Span) -> Trend:
        value = self._value(value_in, value_out)
        return Trend(value, value - kept.value, span.sigma, span.sigma - kept.sigma)

    def correct(self, kept: Trend, value_in: Tensor | None, value_out: Tensor, span: Span) -> Trend:
        value = self._value(value_in, value_out)
        return replace(kept, value=value, change=kept.change + (value - kept.value) * (kept.interval != 0))

    def merge(self, mask: Tensor, new: Trend, old: Trend) -> Trend:
        return Trend(*(torch.where(mask, getattr(new, f.name), getattr(old, f.name)) for f in fields(Trend)))

    def kept_bytes(self, value: int, places: int) -> int:
        return 2 * value + 8 * places   # and two noise levels in fp32 for each place

    def owned(self, kept: Trend) -> Trend:
        return kept

    def _continued(self, kept: Trend, span: Span) -> Tensor:
        if isinstance(kept.interval, Tensor):
            ahead = torch.where(kept.interval == 0, 0.0, (span.sigma - kept.sigma) / kept.interval)
            return kept.value + (kept.change * ahead.clamp(0, self.reach)).to(kept.value.dtype)
        ahead = (span.sigma - kept.sigma) / kept.interval if kept.interval else 0.0
        return torch.add(kept.value, kept.change, alpha=min(max(ahead, 0.0), self.reach))

    def predict(self, kept: Trend, value_in: Tensor | None, span: Span) -> Tensor:
        return self._continued(kept, span)


@PREDICTORS.register("taylor")
@dataclass(frozen=True)
class TaylorVelocity(FirstOrder):
    """Continues the velocity of the last two computed steps as a straight line over the noise level."""

    stage: ClassVar[Stage] = "velocity"


@PREDICTORS.register("taylor_corrected")
@dataclass(frozen=True)
class CorrectedVelocity(TaylorVelocity):
    """As `taylor`, and when a step is computed the latent is moved by a part of what the line before it has missed.

    The parabola through the last three computed velocities says what the skipped steps should have been; as in a
    predictor-corrector method (Adams, order 3) the latent makes up for the difference without another call of the
    network. Half of it serves best: the velocity at hand was computed before the latent moved.
    """

    corrects: ClassVar[bool] = True

    correction: float = knob(0.5, 0, 1, "part of what the line has missed that the latent makes up for; 0 is taylor")

    def missed(self, old: Trend, new: Trend, span: Span) -> Tensor | None:
        """`(slope - old slope) (1 - h / d) (d^2 / 2 - d^3 / (6 (d + i)))`: d from the last computed step to this one,
        i to that from the one before, h from the last step of all. The solver itself has seen to the last step."""
        known = all(not isinstance(part, Tensor) for part in (old.interval, new.interval))
        if span.sigma_before is None or not known or not old.interval or not self.correction:
            return None
        d, i, h = new.interval, old.interval, span.sigma - span.sigma_before
        weight = self.correction * (1 - h / d) * (d**2 / 2 - d**3 / (6 * (d + i)))
        return torch.add(new.change * (weight / d), old.change, alpha=-weight / i) if weight else None


@PREDICTORS.register("taylor_residual")
@dataclass(frozen=True)
class TaylorResidual(FirstOrder):
    """Continues what the block stack added at the last two computed steps as a straight line over the noise level."""

    stage: ClassVar[Stage] = "hidden"

    def _value(self, value_in: Tensor, value_out: Tensor) -> Tensor:
        return value_out - value_in

    def predict(self, kept: Trend, value_in: Tensor | None, span: Span) -> Tensor:
        return value_in + self._continued(kept, span)
