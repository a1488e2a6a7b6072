"""The task score of a generated video: does it show the world that its prompt describes?

It looks at the frames and the prompt's scene alone. Four sub-scores in 0..1:

- colour: mean over frames of the share of movers that are there in the prompted colour (or whose absence physics
  explains); zero for a frame with a missing wall or with anything that the prompt does not name;
- shape: mean over movers of the share of the frames judged in which its shape is the prompted one;
- motion: mean over movers of the share of time windows that keep lane, speed and the rules of bouncing; zero for a
  mover that sets off in the wrong direction;
- identity: (1 + credit) / (1 + occlusions), where the credit of an occlusion, 0..1, says whether the same mover comes
  back where its motion leads.

`total = 100 * colour * shape * motion * identity`: a video must get all of them right. Identity is a mean that starts
from one success: without an occlusion it is 1, and one failure among few occlusions does not make the total 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from .occlusion import absences, returns
from .physics import WINDOW, follow, motion_score
from .tracking import Track, track
from .world import SHAPES, SIZE, Mover, Scene

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


def _check(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[1:] != (SIZE, SIZE, 3) or frames.dtype != np.uint8:
        raise ValueError(f"frames of shape {tuple(frames.shape)} and type {frames.dtype}: expected uint8 RGB of shape "
                         f"(T, {SIZE}, {SIZE}, 3); score videos of the bundled world, at its own size")
    if len(frames) < WINDOW:
        raise ValueError(f"{len(frames)} frames: motion is judged over {WINDOW} frames at least; score a longer video")


def _colour_credit(tracked: Track, explained: np.ndarray) -> np.ndarray:
    """`(T,)` in 0..1."""
    error = np.nan_to_num(tracked.colour_error)   # where it is not judged, the label says enough
    near = np.clip((COLOUR_LIMIT - error) / (COLOUR_LIMIT - COLOUR_TOLERANCE), 0, 1)
    return np.where(tracked.seen, near, explained)


def _shape_share(tracked: Track, mover: Mover) -> float | None:
    """None for a mover of which enough to judge is never in view."""
    judged = tracked.shape[tracked.shape > -2]
    if len(judged):
        return float((judged == SHAPES.index(mover.shape)).mean())
    return None if tracked.seen.any() else 0.0


def score_video(frames: np.ndarray, scene: Scene) -> TaskScore:
    """Scores frames `(T, 96, 96, 3)`, uint8 RGB, T >= 13, against the prompt's scene."""
    _check(frames)
    tracks, tidy = track(frames, scene)
    colours, shapes, motions, credits = [], [], [], []
    for tracked, mover in zip(tracks, scene.movers, strict=True):
        motion = follow(tracked, mover)
        explained = absences(tracked, mover, motion)
        colours.append(_colour_credit(tracked, explained))
        shapes.append(_shape_share(tracked, mover))
        motions.append(motion_score(motion, tracked.seen | explained))
        credits += returns(tracked, mover, motion, explained)
    judged = [share for share in shapes if share is not None]
    colour = float((tidy * np.mean(colours, axis=0)).mean())
    shape = float(np.mean(judged)) if judged else 1.0
    motion_mean = float(np.mean(motions))
    identity = (1 + sum(credits)) / (1 + len(credits))
    return TaskScore(colour, shape, motion_mean, identity, 100 * colour * shape * motion_mean * identity)


def mean_score(scores: Sequence[TaskScore]) -> TaskScore:
    """The mean of each field; the mean total is not the product of the mean sub-scores."""
    if not scores:
        raise ValueError("0 scores: a mean needs at least one video")
    return TaskScore(**{f.name: float(np.mean([getattr(s, f.name) for s in scores])) for f in fields(TaskScore)})
