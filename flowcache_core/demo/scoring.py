"""The task score of a generated video: does it show the world that its prompt describes?

It looks at the frames and the prompt's scene alone. Four sub-scores in 0..1:

- colour: mean over frames of the share of movers that are there in the prompted colour (or whose absence physics
  explains), zero for a frame with a missing wall or with anything that the prompt does not name;
- shape: share of the judged frames, per mover, in which its shape is the prompted one;
- motion: share of the time windows, per mover, that keep lane, speed and the rules of bouncing, zero for a mover
  that sets off in the wrong direction;
- identity: (1 + credit) / (1 + occlusions), where each occlusion's credit in 0..1 says whether the same mover comes
  back where its motion leads.

`total = 100 * colour * shape * motion * identity`: a video must get all of them right. Identity is a mean that starts
from one success: without an occlusion it is 1, and the single failure of a short video halves the total.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from .physics import WINDOW, Motion, follow, returns
from .tracking import Track, track
from .world import SHAPES, SIZE, Scene

# RGB distance of a mover's mean colour: full credit up to the first, none from the second on, which is less than half
# the distance of the closest two colours (purple and blue, 130).
COLOUR_TOLERANCE, COLOUR_LIMIT = 30, 60


@dataclass(frozen=True)
class TaskScore:
    """Sub-scores 0..1 (see the module), total 0..100."""

    colour: float
    shape: float
    motion: float
    identity: float
    total: float


def _checked(frames: np.ndarray) -> np.ndarray:
    if frames.ndim != 4 or frames.shape[1:] != (SIZE, SIZE, 3) or frames.dtype != np.uint8:
        raise ValueError(f"frames of shape {tuple(frames.shape)}, {frames.dtype}: the scorer takes uint8 RGB frames "
                         f"(T, {SIZE}, {SIZE}, 3); decode the video at the bundled world's size")
    if len(frames) < WINDOW:
        raise ValueError(f"{len(frames)} frames: motion is judged over {WINDOW} frames; score a longer video")
    return frames


def _colour(tracks: Sequence[Track], motions: Sequence[Motion], tidy: np.ndarray) -> float:
    credits = []
    for tracked, motion in zip(tracks, motions, strict=True):
        off = (COLOUR_LIMIT - np.nan_to_num(tracked.colour_error)) / (COLOUR_LIMIT - COLOUR_TOLERANCE)
        credits.append(np.where(tracked.seen, np.clip(off, 0, 1), motion.explained))
    return float((tidy * np.mean(credits, axis=0)).mean())


def _shape(tracks: Sequence[Track], scene: Scene) -> float:
    shares = []
    for tracked, mover in zip(tracks, scene.movers, strict=True):
        judged = tracked.shape[tracked.shape > -2]
        if len(judged) or not tracked.seen.any():   # a mover that is only seen in part says nothing
            shares.append((judged == SHAPES.index(mover.shape)).mean() if len(judged) else 0.0)
    return float(np.mean(shares)) if shares else 1.0


def score_video(frames: np.ndarray, scene: Scene) -> TaskScore:
    """Scores frames `(T, 96, 96, 3)`, uint8 RGB, at least WINDOW of them, against the prompt's scene."""
    tracks, tidy = track(_checked(frames), scene)
    motions = [follow(tracked, mover) for tracked, mover in zip(tracks, scene.movers, strict=True)]
    colour, shape = _colour(tracks, motions, tidy), _shape(tracks, scene)
    motion = float(np.mean([m.score(tracked.seen) for m, tracked in zip(motions, tracks, strict=True)]))
    credits = [credit for tracked, mover, m in zip(tracks, scene.movers, motions, strict=True)
               for credit in returns(tracked, mover, m)]
    identity = (1 + sum(credits)) / (1 + len(credits))
    return TaskScore(colour, shape, motion, identity, 100 * colour * shape * motion * identity)


def mean_score(scores: Sequence[TaskScore]) -> TaskScore:
    """The mean of each field; the mean total is not the product of the mean sub-scores."""
    if not scores:
        raise ValueError("0 scores: a mean needs at least one video")
    return TaskScore(**{f.name: float(np.mean([getattr(s, f.name) for s in scores])) for f in fields(TaskScore)})
