"""Calibrations of the time-modulation distance: what a change of the signal says about a change of the output.

Degree-4 polynomials that TeaCache (arXiv 2411.19108) fitted for Wan2.1 and FlowCache's release applies to
SkyReels-V2. "ret" tables belong to runs that always compute five first steps, "noret" tables to runs that compute one;
the latter were fitted on another signal and are offered in conformance mode only.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Polynomial:
    """coefficients: highest power first. retained: fitted for runs that retain their first steps."""

    coefficients: tuple[float, ...]
    retained: bool

    def __call__(self, distance: float) -> float:
        """The released value: negative for very small and for very large distances."""
        value = 0.0
        for coefficient in self.coefficients:
            value = value * distance + coefficient
        return value

    @cached_property
    def fitted_range(self) -> tuple[float, float]:
        """From the first zero to the largest value before the last zero: where the polynomial rises from 0."""
        zeros = np.roots(self.coefficients)
        real = sorted(float(z.real) for z in zeros if abs(z.imag) < 1e-9 and z.real > 0)
        turns = [float(t.real) for t in np.roots(np.polyder(self.coefficients)) if abs(t.imag) < 1e-9]
        return real[0], max((t for t in turns if real[0] < t < real[-1]), key=self)

    def clamped(self, distance: float) -> float:
        """The value inside the fitted range: never negative, never falling back after its maximum."""
        low, high = self.fitted_range
        return max(0.0, self(min(max(distance, low), high)))


TABLES = {
    "1.3B_ret": Polynomial((-5.21862437e4, 9.23041404e3, -5.28275948e2, 1.36987616e1, -4.99875664e-2), True),
    "14B_ret": Polynomial((-3.03318725e5, 4.90537029e4, -2.65530556e3, 5.87365115e1, -3.15583525e-1), True),
    "1.3B_noret": Polynomial((2.39676752e3, -1.31110545e3, 2.01331979e2, -8.29855975, 1.37887774e-1), False),
    "14B_noret": Polynomial((-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404), False),
}

NO_TABLE = "none"


def check_table(calibration: str, signal: str, released: bool = False) -> None:
    """Raises ValueError for a table that is unknown or was fitted for another signal. released: conformance mode."""
    if calibration == NO_TABLE:
        return
    if calibration not in TABLES:
        raise ValueError(f"calibration {calibration!r}: choose one of {NO_TABLE}, {', '.join(TABLES)}")
    if signal != "time_modulation":
        raise ValueError(f"calibration {calibration!r} with the signal {signal}: the tables were fitted for "
                         "time_modulation")
    if not (TABLES[calibration].retained or released):
        raise ValueError(f"calibration {calibration!r}: fitted on another signal, so offered with conformance only; "
                         "use a table whose name ends in _ret")
