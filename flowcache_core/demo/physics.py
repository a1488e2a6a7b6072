"""Does a tracked mover obey the world's physics, and does it come back from behind an occluder?

The prompt leaves the start open, so everything is checked locally. A mover's place and direction along its axis are
one number, its phase (pixels, modulo `PERIOD`: up the axis, then down), which the world advances by the speed every
frame, bounces included. Around every frame the phase that fits the places seen there best is found; the window obeys
if the fit is good, the phase has advanced as it must since the window before, and the lane is steady.
"""

from dataclasses import dataclass

import numpy as np

from .tracking import Track, share_in_view
from .world import RADIUS, SIZE, SPEEDS, Mover, bounce

REACH = 6                     # frames on each side of a window's middle: a jitter of 1 px is 7 % of the slow speed
WINDOW = 2 * REACH + 1
MIN_SEEN = 6                  # frames of a window that must show the mover
SPAN = SIZE - 2 * RADIUS
PERIOD = 2 * SPAN
PHASES = np.arange(0, PERIOD, 0.5)
SPEED_TOLERANCE = 0.35        # share of the speed; twice and half the speed are well outside
JITTER = 1.2                  # pixels rms: one pixel of the video, half a pixel of the measurement
LANE_RMS, LANE_STEP = 2.0, 3.0   # pixels inside a window, and from one window to the next; crossing lanes does 12
DIRECTION_SLACK = 4.0         # pixels by which the first frame's phase may miss the prompted half of the period
HIDDEN_SLACK = 8.0            # pixels of error in the place of a mover that cannot be seen
PARTLY = 0.15                 # added to the least share that counts as seen: a sliver may be missed
OCCLUDED_SHARE = 0.5          # an occlusion begins where less of the mover is in view
PLACE_SLACK, PLACE_DRIFT, LANE_SLACK = 4.0, 0.25, 6.0   # pixels, share of the way gone unseen, pixels
SHAPE_MEMORY = 24             # frames before and after an occlusion whose shape is compared


@dataclass(frozen=True)
class Motion:
    """A mover's windows, each array `(T,)`.

    phase, lane: pixels, NaN where too little is seen. obeys: the window follows the prompt. explained: the mover is
    out of sight and physics says why. forward: the first direction is the prompted one.
    """

    phase: np.ndarray
    lane: np.ndarray
    obeys: np.ndarray
    explained: np.ndarray
    forward: bool

    def score(self, seen: np.ndarray) -> float:
        """Share of the windows that obey, 0..1; a missing mover's windows count unless explained."""
        counted = np.isfinite(self.phase) | ~(seen | self.explained)
        return float(self.obeys[counted].mean()) if self.forward and counted.any() else 0.0


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
        unknown = ~np.isfinite(ahead)
        steady[WINDOW:] = unknown | ((np.abs(ahead) <= SPEED_TOLERANCE * way + JITTER) & (drift <= LANE_STEP))
    return steady


def _starts_forward(phase: np.ndarray, obeys: np.ndarray, mover: Mover) -> bool:
    """The first obeying window, taken back to frame 0, lies in the prompted direction's half of the period."""
    if not obeys.any():
        return False
    first = int(obeys.argmax())
    middle = SPAN / 2 if mover.velocity > 0 else SPAN * 1.5
    at_start = phase[first] - SPEEDS[mover.speed] * first
    return bool(abs(wrapped(at_start - middle)) <= SPAN / 2 + DIRECTION_SLACK)


def _could_hide(seen_by: Track, mover: Mover, frames: np.ndarray, phase: np.ndarray, lane: float) -> np.ndarray:
    """`(N,)` bool: at these phases (give or take the slack) an occluder covers the mover in these frames."""
    from .tracking import SEEN_SHARE

    least = np.full(len(frames), np.inf)
    for slack in (-HIDDEN_SLACK, 0.0, HIDDEN_SLACK):
        along = bounce(RADIUS, 1.0, phase + slack)
        centres = np.stack([np.full_like(along, lane), along][::1 if mover.axis else -1], axis=1)
        least = np.minimum(least, share_in_view(seen_by, mover, frames, centres))
    return least < SEEN_SHARE + PARTLY


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Start and end (exclusive) of every run of True."""
    edges = np.flatnonzero(np.diff(np.pad(flags.astype(np.int8), 1)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _explained(track: Track, mover: Mover, phase: np.ndarray, lane: np.ndarray) -> np.ndarray:
    """`(T,)` bool. A run of absence is explained up to the frame in which the mover is overdue."""
    explained, known = np.zeros(len(phase), bool), np.flatnonzero(np.isfinite(phase))
    for start, end in runs(~track.seen):
        if not len(known):
            break
        earlier = known[known < start]
        anchor = int(earlier[-1]) if len(earlier) else int(known[known >= start][0])
        frames = np.arange(start, end)
        expected = phase[anchor] + SPEEDS[mover.speed] * (frames - anchor)
        hides = _could_hide(track, mover, frames, expected, float(lane[anchor])) | track.touching[frames]
        steps = slice(None, None, 1 if anchor < start else -1)
        explained[start:end] = np.logical_and.accumulate(hides[steps])[steps]
    return explained


def follow(track: Track, mover: Mover) -> Motion:
    """The motion of one tracked mover against what the prompt says of it."""
    along, across = track.centre[:, mover.axis], track.centre[:, 1 - mover.axis]
    speed = SPEEDS[mover.speed]
    phase, rms = _fit_phase(along, speed)
    around = np.where(np.isfinite(phase)[:, None], _windows(across), 0.0)
    lane = np.where(np.isfinite(phase), np.nanmean(around, axis=1), np.nan)
    allowed = np.hypot(SPEED_TOLERANCE * speed * WINDOW / 12**0.5, JITTER)   # a ramp's deviation is length / sqrt(12)
    obeys = (rms <= allowed) & (np.nanstd(around, axis=1) <= LANE_RMS) & _steady(phase, lane, speed)
    return Motion(phase, lane, obeys, _explained(track, mover, phase, lane), _starts_forward(phase, obeys, mover))


def _usual_shape(track: Track, start: int, end: int) -> int | None:
    judged = track.shape[max(start, 0):end]
    judged = judged[judged > -2]
    return int(np.bincount(judged + 1).argmax()) if len(judged) else None


def returns(track: Track, mover: Mover, motion: Motion) -> list[float]:
    """Credit 0..1 of each occlusion: the mover comes back, of the same shape, where its motion leads."""
    credits, known = [], np.flatnonzero(np.isfinite(motion.phase))
    occluded = track.visible < OCCLUDED_SHARE
    hidden = occluded & (track.seen | motion.explained)
    spans = runs(occluded)
    for number, (start, end) in enumerate(spans):
        before, after = known[known < start], known[known >= end]
        if not hidden[start:end].any() or not len(before):
            continue
        overdue = not (track.seen | motion.explained)[start:end].all()
        if overdue or not len(after):
            credits += [0.0] if overdue else []
            continue
        # Windows further off than REACH do not mix both sides of the gap.
        a = int(before[before <= start - REACH][-1]) if before[0] <= start - REACH else int(before[0])
        b = int(after[after >= end + REACH - 1][0]) if after[-1] >= end + REACH - 1 else int(after[-1])
        speed = SPEEDS[mover.speed]
        miss = abs(float(wrapped(motion.phase[b] - motion.phase[a] - speed * (b - a))))
        allowed = PLACE_SLACK + PLACE_DRIFT * speed * (end - start)
        limit = spans[number + 1][0] if number + 1 < len(spans) else len(track.shape)
        shapes = (_usual_shape(track, start - SHAPE_MEMORY, start),
                  _usual_shape(track, end, min(end + SHAPE_MEMORY, limit)))
        same = shapes[0] == shapes[1] or None in shapes
        near = abs(motion.lane[b] - motion.lane[a]) <= LANE_SLACK
        credits.append(float(np.clip(2 - miss / allowed, 0, 1)) * same * near)
    return credits
