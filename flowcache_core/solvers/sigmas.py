"""Flow-matching noise levels: `x_t = (1 - sigma) x0 + sigma noise`, from 1 (noise) down to 0 (clean)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TABLE_SIZE = 1000


@dataclass(frozen=True)
class SigmaTable:
    """`steps + 1` sigmas, the last one 0, and the timestep that the network is told at each step (0..1000)."""

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.sigmas) != len(self.timesteps) + 1 or self.sigmas[-1] != 0:
            raise ValueError(f"{len(self.sigmas)} sigmas for {len(self.timesteps)} timesteps: expected one sigma more "
                             "than timesteps, the last one 0")
        if any(a <= b for a, b in zip(self.sigmas[:-1], self.sigmas[1:], strict=True)):
            raise ValueError(f"sigmas {self.sigmas}: expected to fall at every step")

    @property
    def steps(self) -> int:
        return len(self.timesteps)


def shift_sigma(sigma: np.ndarray, shift: float) -> np.ndarray:
    """Moves levels towards noise: `shift * s / (1 + (shift - 1) * s)`."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def _check(steps: int, shift: float) -> None:
    if steps < 1:
        raise ValueError(f"{steps} steps: expected at least 1")
    if not 0 < shift < math.inf:
        raise ValueError(f"shift {shift}: expected more than 0 (1 leaves the levels as they are)")


def flow_table(steps: int, shift: float, truncate: bool = True) -> SigmaTable:
    """Evenly spaced levels from 0.999, shifted. `truncate`: integer timesteps, as SkyReels-V2 gives its network."""
    _check(steps, shift)
    even = np.linspace(float(np.float32(0.999)), 0, steps + 1)[:-1]
    sigmas = shift_sigma(even, shift)
    timesteps = np.trunc(1000 * sigmas) if truncate else 1000 * sigmas
    return SigmaTable(tuple(float(s) for s in sigmas.astype(np.float32)) + (0.0,), tuple(float(t) for t in timesteps))


def listed_table(listed: Sequence[float], shift: float, warp: bool = True) -> SigmaTable:
    """Few-step lists such as 1000, 750, 500, 250 (the Self-Forcing family).

    warp: look each entry up in the shifted table of `TABLE_SIZE` levels (entry `TABLE_SIZE - listed`); otherwise the
    entries are timesteps as they are, and their sigma is the nearest level of that table.
    """
    _check(len(listed), shift)
    if any(not 0 < t <= TABLE_SIZE for t in listed):
        raise ValueError(f"step list {tuple(listed)}: expected entries above 0 and up to {TABLE_SIZE}")
    if warp and any(t != int(t) for t in listed):
        raise ValueError(f"step list {tuple(listed)}: a warped list holds whole numbers, places in a table")
    levels = shift_sigma(np.linspace(1, 0, TABLE_SIZE + 1)[:-1], shift)
    if warp:
        sigmas = np.array([levels[TABLE_SIZE - int(t)] for t in listed])
        timesteps = 1000 * sigmas
    else:
        timesteps = np.array(listed, dtype=np.float64)
        sigmas = np.array([levels[np.abs(levels * 1000 - t).argmin()] for t in listed])
    return SigmaTable(tuple(map(float, sigmas)) + (0.0,), tuple(map(float, timesteps)))
