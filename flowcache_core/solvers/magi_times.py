"""MAGI-1's time grid. Its time runs the other way round: `t = 0` is noise, `t = 1` is clean, so `sigma = 1 - t`.

All values are computed in float32, as the release does.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .sigmas import SigmaTable

SHORTCUT_STEPS = 12   # the one step count whose grid is not evenly spaced before the transform
SHORTCUTS = {"8,16,16": (2, 1, 1), "16,16,8": (1, 1, 2)}
"""How far each of the three steps of a quarter goes, in sixteenths of the whole."""

TRANSFORMS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "sd3": lambda u, shift: u * u * (1 / shift) / (1 + (1 / shift - 1) * (u * u)),
    "square": lambda u, shift: u * u,
    "piecewise": lambda u, shift: torch.where(u <= 0.875, u * (0.5 / 0.875), 0.5 + (u - 0.875) * 4),
    "identity": lambda u, shift: u,
}


def magi_times(steps: int, shift: float = 3.0, shortcut: str | None = None,
               transform: str = "sd3") -> tuple[float, ...]:
    """`steps + 1` times from 0 to 1, float32 values.

    shift: of the transform sd3, more than 1 stays longer near noise. shortcut: how the quarters of a 12-step run are
    divided, `8,16,16` or `16,16,8`; None divides them evenly, and other step counts always are. Raises ValueError.
    """
    if not 0 < shift < math.inf:
        raise ValueError(f"shift {shift}: expected more than 0 (1 leaves the squared times as they are)")
    if transform not in TRANSFORMS:
        raise ValueError(f"time transform {transform!r}: expected one of {', '.join(TRANSFORMS)}")
    intervals = magi_intervals(steps, shortcut)
    u = torch.linspace(0, 1, steps + 1)
    if shortcut is not None and steps == SHORTCUT_STEPS:
        u = torch.tensor((0, *intervals)).cumsum(0) / 16
    return tuple(TRANSFORMS[transform](u, shift).tolist())


def magi_intervals(steps: int, shortcut: str | None = None) -> tuple[int, ...]:
    """The relative size of every step: 1, or for multiples of 3 its place in the shortcut. Raises ValueError."""
    if steps < 1:
        raise ValueError(f"{steps} steps: expected at least 1")
    if shortcut is not None and shortcut not in SHORTCUTS:
        raise ValueError(f"shortcut {shortcut!r}: expected one of {' or '.join(SHORTCUTS)}")
    return (1,) * steps if shortcut is None or steps % 3 else SHORTCUTS[shortcut] * (steps // 3)


def magi_table(steps: int, shift: float = 3.0, shortcut: str | None = None, transform: str = "sd3") -> SigmaTable:
    """The grid as noise levels `1 - t`; the network is told `1000 t`, so its timesteps rise."""
    times = magi_times(steps, shift, shortcut, transform)
    timesteps = (torch.tensor(times[:-1]) * 1000).tolist()
    return SigmaTable((*(1 - t for t in times[:-1]), 0.0), tuple(timesteps))
