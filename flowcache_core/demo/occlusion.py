"""When may a mover be out of sight, and does the same one come back? For the task score."""

import numpy as np

from .physics import REACH, Motion, wrapped
from .tracking import SEEN_SHARE, Track, share_in_view
from .world import RADIUS, SPEEDS, Mover, bounce

HIDDEN_SLACK = 8.0       # pixels of error in the place of a mover that cannot be seen
PARTLY = 0.15            # added to the least share that counts as seen: a sliver may be missed
SETTLE = 2               # frames; half of a codec's temporal cell, over which it smears an appearance
OCCLUDED_SHARE = 0.5     # an occlusion begins where less of the mover is in view
PLACE_SLACK, PLACE_DRIFT = 4.0, 0.25   # pixels, and share of the way gone unseen, by which a return may miss
LANE_SLACK = 6.0         # pixels; half a radius
SHAPE_MEMORY = 36        # frames before and after an occlusion whose shape is compared; two slow movers touch for 34


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Start and end (exclusive) of every run of True."""
    edges = np.flatnonzero(np.diff(np.pad(flags.astype(np.int8), 1)))
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _could_hide(track: Track, mover: Mover, frames: slice, phase: np.ndarray, lane: float) -> np.ndarray:
    """`(N,)` bool: at these phases (give or take the slack) an occluder covers the mover in these frames."""
    least = np.full(len(phase), np.inf)
    for slack in (-HIDDEN_SLACK, 0.0, HIDDEN_SLACK):
        along = bounce(RADIUS, 1.0, phase + slack)
        across = np.full_like(along, lane)
        centres = np.stack([across, along] if mover.axis else [along, across], axis=1)
        least = np.minimum(least, share_in_view(track.free[frames], mover, centres))
    return least < SEEN_SHARE + PARTLY


def absences(track: Track, mover: Mover, motion: Motion) -> np.ndarray:
    """`(T,)` bool: the mover is out of sight, and physics says why.

    Its place is foretold from the last window before the absence (or the first one after it, where there is none
    before). From the frame on in which it is overdue, nothing explains its absence.
    """
    explained, known = np.zeros(len(track.seen), bool), np.flatnonzero(motion.known)
    for start, end in runs(~track.seen):
        if not len(known):
            break
        forward = known[0] < start
        anchor = int(known[known < start][-1] if forward else known[0])
        frames = slice(start, end)
        expected = motion.phase[anchor] + SPEEDS[mover.speed] * (np.arange(start, end) - anchor)
        hides = _could_hide(track, mover, frames, expected, float(motion.lane[anchor])) | track.touching[frames]
        hides = np.convolve(hides, np.ones(2 * SETTLE + 1), "full")[SETTLE:SETTLE + len(hides)] > 0
        order = slice(None, None, 1 if forward else -1)
        explained[frames] = np.logical_and.accumulate(hides[order])[order]
    return explained


def _usual_shape(track: Track, start: int, end: int) -> int | None:
    judged = track.shape[start:end]
    judged = judged[judged > -2]
    return int(np.bincount(judged + 1).argmax()) if len(judged) else None


def _credit(track: Track, mover: Mover, motion: Motion, gap: tuple[int, int], room: tuple[int, int]) -> float:
    """How well the mover after the `gap` continues the one before it, 0..1; `room`: the gap with the frames around it
    up to the gaps before and after."""
    start, end = gap
    known = np.flatnonzero(motion.known)
    # Windows that are REACH away from the gap see one side of it only.
    early, late = known[known <= max(start - REACH, known[0])], known[known >= min(end + REACH - 1, known[-1])]
    before, after = int(early[-1]), int(late[0])
    way = SPEEDS[mover.speed] * (after - before)
    miss = abs(float(wrapped(motion.phase[after] - motion.phase[before] - way)))
    allowed = PLACE_SLACK + PLACE_DRIFT * SPEEDS[mover.speed] * (end - start)
    old = _usual_shape(track, max(start - SHAPE_MEMORY, room[0]), start)
    new = _usual_shape(track, end, min(end + SHAPE_MEMORY, room[1]))
    same = old == new or old is None or new is None
    on_lane = abs(motion.lane[after] - motion.lane[before]) <= LANE_SLACK
    return float(np.clip(2 - miss / allowed, 0, 1)) if same and on_lane else 0.0


def returns(track: Track, mover: Mover, motion: Motion, explained: np.ndarray) -> list[float]:
    """Credit 0..1 of each occlusion: the mover comes back, of the same shape, where its motion leads. (Tracks follow
    one colour: a mover that comes back in another one is overdue.) One that lasts to the video's end is not judged,
    unless the mover is overdue."""
    credits, known = [], np.flatnonzero(motion.known)
    gaps, accounted = runs(track.visible < OCCLUDED_SHARE), track.seen | explained
    edges = [0, *(edge for gap in gaps for edge in gap), len(explained)]
    for number, (start, end) in enumerate(gaps):
        if not accounted[start:end].any() or not len(known) or known[0] >= start:
            continue
        if not accounted[start:end].all():
            credits.append(0.0)
        elif known[-1] >= end:
            credits.append(_credit(track, mover, motion, (start, end), (edges[2 * number], edges[2 * number + 3])))
    return credits
