"""Which pixels of a video belong to which palette colour, and whether the wall stands. For the task score.

A pixel takes the palette colour of whose mixture with the background it is: along the ray from the background to the
colour, so that a soft edge keeps its colour.
"""

import numpy as np

from .world import BACKGROUND, COLOURS, WALL, WALL_SPAN

HALF_COVER = 0.5        # a pixel is a mover's where the mover covers half of it: the template's own edge
FOREGROUND = 70         # RGB distance from the background; noise of sigma 8 has 14, the wall 149
WALL_MARGIN = 2         # columns at the wall's edges that blur and jitter may take
WALL_DISTANCE, WALL_SHARE = 60, 0.93   # RGB, under half the wall's contrast; a mover before the wall takes 12 % of it
CHUNK = 64              # frames segmented at once; bounds the memory


def segment(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels `(T, H, W)` int8 (index into COLOURS, -1 for none) and the foreground `(T, H, W)` bool."""
    rays = np.float32(list(COLOURS.values())) - np.float32(BACKGROUND)
    lengths = np.linalg.norm(rays, axis=1)
    labels, foreground = np.empty(frames.shape[:3], np.int8), np.empty(frames.shape[:3], bool)
    for first in range(0, len(frames), CHUNK):
        part = slice(first, first + CHUNK)
        offset = frames[part].astype(np.float32) - np.float32(BACKGROUND)
        along = offset @ (rays / lengths[:, None]).T
        nearest = along.argmax(axis=-1)   # the largest projection is the smallest angle to the ray
        cover = np.take_along_axis(along, nearest[..., None], -1)[..., 0] / lengths[nearest]
        labels[part] = np.where(cover > HALF_COVER, nearest, -1)
        foreground[part] = np.square(offset).sum(-1) > FOREGROUND**2
    return labels, foreground


def wall_standing(frames: np.ndarray) -> np.ndarray:
    """`(T,)` bool: the wall's columns show the wall and nothing else."""
    inner = frames[:, :, WALL_SPAN[0] + WALL_MARGIN:WALL_SPAN[1] - WALL_MARGIN].astype(np.float32)
    near = np.square(inner - np.float32(WALL)).sum(-1) < WALL_DISTANCE**2
    return near.mean(axis=(1, 2)) > WALL_SHARE


def blob_centres(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre pixel `(T, 2)` as x, y of the largest blob of each mask `(T, H, W)`, and whether there is one, `(T,)`."""
    import cv2

    pixels, found = np.zeros((len(masks), 2), np.int64), np.zeros(len(masks), bool)
    for t, mask in enumerate(masks):
        count, _, stats, middle = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        if count > 1:
            largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
            pixels[t], found[t] = np.round(middle[largest]), True
    return pixels, found


def colour_error(frames: np.ndarray, masks: np.ndarray, judged: np.ndarray, colour: str) -> np.ndarray:
    """RGB distance `(T,)` of the mean inside each mask from `colour`; NaN outside the `judged` frames."""
    import cv2

    error = np.full(len(frames), np.nan)
    for t in np.flatnonzero(judged):
        mask = masks[t].astype(np.uint8)
        inside = cv2.erode(mask, np.ones((3, 3), np.uint8), borderValue=0)   # without the soft edge
        mean = cv2.mean(frames[t], inside if inside.any() else mask)[:3]
        error[t] = np.linalg.norm(np.subtract(mean, COLOURS[colour]))
    return error


def grown(masks: np.ndarray) -> np.ndarray:
    """The masks `(T, H, W)`, larger by one pixel on every side."""
    import cv2

    return np.stack([cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0 for mask in masks])
