"""Does a tracked mover keep the world's laws of motion? For the task score.

The prompt leaves a little of the start open, so everything is checked locally. A mover's place and direction along its
axis are one number, its phase (pixels, modulo `PERIOD`: up the axis, then down), which the world advances by the speed
every frame, bounces included. Around every frame the phase is found that fits the places seen there best; the window
obeys if the fit is good, the phase has advanced as it must since the window before, and the lane is steady and the
prompted one.
"""

from dataclasses import dataclass

import numpy as np

from .tracking import Track
from .world import LANES, RADIUS, SIZE, SPEEDS, START_JITTER, Mover, bounce

REACH = 6                     # frames on each side of a window's middle: a jitter of 1 px is 7 % of the slow speed
WINDOW = 2 * REACH + 1
MIN_SEEN = 6                  # frames of a window that must show the mover
SPAN = SIZE - 2 * RADIUS
PERIOD = 2 * SPAN
PHASES = np.arange(0, PERIOD, 0.5)
SPEED_TOLERANCE = 0.35        # share of the speed; twice and half the speed are well outside
JITTER = 1.2                  # pixels rms: one pixel of the video, half a pixel of the measurement
LANE_RMS, LANE_STEP = 2.0, 3.0   # pixels inside a window, and from one window to the next; moving across makes 13
LANE_MISS = 10.0              # pixels from the middle of the prompted lane; lanes are 30 apart
START_MISS = SPAN / 4         # pixels by which the first frame's phase may miss the prompted edge


@dataclass(frozen=True)
class Motion:
    """A mover's windows: phase and lane in pixels, `(T,)`, NaN where too little is seen; obeys, `(T,)` bool: the
    window follows the prompt; forward: it set off from the edge that the prompted direction leads away from."""

    phase: np.ndarray
    lane: np.ndarray
    obeys: np.ndarray
    forward: bool

    @property
    def known(self) -> np.ndarray:
        return np.isfinite(self.phase)


def wrapped(phase: np.ndarray) -> np.ndarray:
    """A difference of phases in [-SPAN, SPAN)."""
    return np.mod(phase + SPAN, PERIOD) - SPAN


def _windows(values: np.ndarray) -> np.ndarray:
    """`(T, WINDOW)` around each frame, NaN outside the video."""
    padded = np.pad(values, REACH, constant_values=np.nan)
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW)


def _fit_phase(along: np.ndarray, speed: float) -> tuple[np.ndarray, np.ndarray]:
    """Best phase at each window's middle and the rms error there, pixels `(T,)`; NaN where too little is seen."""
    seen = np.isfinite(_windows(along))
    count = seen.sum(1)
    places = np.where(seen, _windows(along), 0.0)
    model = np.stack([bounce(RADIUS + phase, speed, np.arange(-REACH, REACH + 1)) for phase in PHASES])
    squares = np.square(places).sum(1)[:, None] - 2 * places @ model.T + seen.astype(float) @ np.square(model).T
    best, known = squares.argmin(1), count >= MIN_SEEN
    rms = np.sqrt(np.maximum(squares[np.arange(len(best)), best], 0) / np.maximum(count, 1))
    return np.where(known, PHASES[best], np.nan), np.where(known, rms, np.nan)


def _steady(phase: np.ndarray, lane: np.ndarray, speed: float) -> np.ndarray:
    """`(T,)` bool: phase and lane follow from one window earlier, or that is not known."""
    steady = np.ones(len(phase), bool)
    if len(phase) > WINDOW:
        way = speed * WINDOW
        ahead = wrapped(phase[WINDOW:] - phase[:-WINDOW] - way)
        drift = np.abs(lane[WINDOW:] - lane[:-WINDOW])
        follows = (np.abs(ahead) <= SPEED_TOLERANCE * way + JITTER) & (drift <= LANE_STEP)
        steady[WINDOW:] = follows | ~np.isfinite(ahead)
    return steady


def _starts_forward(phase: np.ndarray, obeys: np.ndarray, mover: Mover) -> bool:
    """The first obeying window, taken back to frame 0, lies near the edge that the mover moves away from."""
    if not obeys.any():
        return False
    first = int(obeys.argmax())
    edge = 0.0 if mover.velocity > 0 else SPAN
    at_start = phase[first] - SPEEDS[mover.speed] * first
    return bool(abs(wrapped(at_start - edge - START_JITTER / 2)) <= START_MISS)


def follow(track: Track, mover: Mover) -> Motion:
    """The motion of one tracked mover against what the prompt says of it."""
    along, across = track.centre[:, mover.axis], track.centre[:, 1 - mover.axis]
    speed = SPEEDS[mover.speed]
    phase, rms = _fit_phase(along, speed)
    known = np.isfinite(phase)
    around = np.where(known[:, None], _windows(across), 0.0)
    lane = np.where(known, np.nanmean(around, axis=1), np.nan)
    allowed = np.hypot(SPEED_TOLERANCE * speed * WINDOW / 12**0.5, JITTER)   # a ramp's deviation is length / sqrt(12)
    in_lane = (np.nanstd(around, axis=1) <= LANE_RMS) & (np.abs(lane - LANES[mover.lane]) <= LANE_MISS)
    obeys = (rms <= allowed) & in_lane & _steady(phase, lane, speed)
    return Motion(phase, lane, obeys, _starts_forward(phase, obeys, mover))


def motion_score(motion: Motion, excused: np.ndarray) -> float:
    """Share of the windows that obey, 0..1; where too little is seen they fail, but for the `excused` frames `(T,)`.
    Zero for a mover that sets off in the wrong direction."""
    counted = motion.known | ~excused
    return float(motion.obeys[counted].mean()) if motion.forward and counted.any() else 0.0
