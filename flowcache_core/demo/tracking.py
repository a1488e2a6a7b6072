"""Where the movers of a scene are in a video, from the pixels alone. For the task score.

A mover is the placement of a shape template that overlaps its colour best, counting only the area that no occluder
(wall, edge of the frame, front mover) covers; so a half hidden mover still has a place and a shape. Coordinates are
pixels, x right and y down.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .segmentation import WALL_MARGIN, blob_centres, colour_error, grown, segment, wall_standing
from .world import COLOURS, RADIUS, SHAPES, SIZE, WALL_SPAN, Mover, Scene, _distance

SEEN_SHARE = 0.3        # with less of a shape in view, its place and shape are a guess
SEEN_IOU = 0.35         # below this overlap a blob is no shape of the world in any placement
JUDGED_SHARE = 0.6      # a shape is judged where this much of it is in view: all four differ there
SHAPE_IOU = 0.6         # a shape of 0.8 times the right size has 0.64
TOUCH = 2 * RADIUS + 4  # pixels between centres; a codec with cells of 8 pixels mixes the colours of close movers
TOUCHING_IOU = 0.75     # for movers that touch, whose masks may be eaten into; undamaged ones have 0.9 and more
REACH_OUT = RADIUS + 5  # pixels; a square's corners reach 14.6, the rest is blur
EXTRA_AREA = 70         # pixels; a fifth of the smallest shape (the cross, 340)
COARSE, FINE = 12, 2    # search radii in pixels: around the blob's centre, then around the best place of that search


@dataclass(frozen=True)
class Track:
    """What a video shows of one mover, frame by frame.

    centre: `(T, 2)` x, y, NaN where not seen. visible: `(T,)` share of the shape in view there, 0 where not seen.
    shape: `(T,)` index into SHAPES, -1 for none of them, -2 where not judged. colour_error: `(T,)` RGB distance of
    the inside from the prompted colour, NaN where not judged. free: `(T, H, W)`, False where an occluder stands.
    touching: `(T,)`, the scene's two movers touch; shape and colour are not judged then.
    """

    centre: np.ndarray
    visible: np.ndarray
    shape: np.ndarray
    colour_error: np.ndarray
    free: np.ndarray
    touching: np.ndarray

    @property
    def seen(self) -> np.ndarray:
        return self.visible > 0


@dataclass(frozen=True)
class _Placement:
    """Per frame, where which shape overlaps a mask best: centre `(T, 2)` (far outside where the mask is empty), share
    of it in view, index into SHAPES, and IoU of what is in view, each `(T,)`."""

    centre: np.ndarray
    share: np.ndarray
    shape: np.ndarray
    score: np.ndarray


def templates(shape: str, places: np.ndarray, half: int) -> np.ndarray:
    """Masks `(N, side * side)`, float32, of `shape` centred at `places` `(N, 2)`; the middle pixel is the origin.
    side = 2 * half + 1."""
    grid = np.arange(-half, half + 1)
    x = grid[None, None, :] - places[:, 0, None, None]
    y = grid[None, :, None] - places[:, 1, None, None]
    return (_distance(shape, x, y) < 0).reshape(len(places), -1).astype(np.float32)


def crops(maps: np.ndarray, pixels: np.ndarray, half: int) -> np.ndarray:
    """Cut-outs `(T, side * side)`, float32, of maps `(T, H, W)` around pixels `(T, 2)`; zero outside the frame."""
    padded = np.pad(maps, ((0, 0), (half, half), (half, half)))
    side = 2 * half + 1
    views = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
    x, y = np.clip(pixels, 0, SIZE - 1).T
    return views[np.arange(len(maps)), y, x].reshape(len(maps), -1).astype(np.float32)


def share_in_view(free: np.ndarray, mover: Mover, centres: np.ndarray) -> np.ndarray:
    """Share `(N,)` of a mover centred at `centres` `(N, 2)` that the occluders leave in view; free: `(N, H, W)`."""
    pixels = np.floor(centres).astype(np.int64)
    stamps = templates(mover.shape, centres - pixels - 0.5, RADIUS + 1)
    return (crops(free, pixels, RADIUS + 1) * stamps).sum(1) / stamps.sum(1)


def _overlap(mask: np.ndarray, free: np.ndarray, pixels: np.ndarray, shape: str, places: np.ndarray,
             half: int) -> tuple[np.ndarray, np.ndarray]:
    """IoU and share in view, each `(T, N)`, of `shape` at each place relative to each frame's pixel."""
    masks, stamps = crops(mask, pixels, half), templates(shape, places, half).T
    common, in_view = masks @ stamps, crops(free, pixels, half) @ stamps
    union = in_view + masks.sum(1, keepdims=True) - common
    return common / np.maximum(union, 1), in_view / stamps.sum(0)


def _square_grid(radius: float, step: float) -> np.ndarray:
    axis = np.arange(-radius, radius + step / 2, step)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def _place(mask: np.ndarray, free: np.ndarray) -> _Placement:
    """The best placement of any shape on one colour's mask."""
    middle, found = blob_centres(mask)
    coarse, fine, rows = _square_grid(COARSE, 2), _square_grid(FINE, 0.5), np.arange(len(mask))
    scores, shares, centres = [], [], []
    for shape in SHAPES:   # each with its own search: a wrong shape fits best at a place that is not the centre
        iou, _ = _overlap(mask, free, middle, shape, coarse, COARSE + RADIUS + 1)
        pixels = middle + coarse[iou.argmax(1)].astype(np.int64)
        iou, share = _overlap(mask, free, pixels, shape, fine, FINE + RADIUS + 1)
        best = iou.argmax(1)
        scores.append(iou[rows, best])
        shares.append(share[rows, best])
        centres.append(pixels + 0.5 + fine[best])
    winner = np.argmax(scores, axis=0)
    share = np.where(found, np.array(shares)[winner, rows], 0.0)
    centre = np.where(found[:, None], np.array(centres)[winner, rows], -SIZE)
    return _Placement(centre, share, winner, np.array(scores)[winner, rows])


def _touching(placements: Sequence[_Placement]) -> tuple[np.ndarray, np.ndarray]:
    """`(T,)` bool: the two movers touch; and their ways `(movers, T, 2)`, which bridge doubtful frames."""
    times = np.arange(len(placements[0].share))
    ways = np.full((len(placements), len(times), 2), -float(SIZE))
    for way, placement in zip(ways, placements, strict=True):
        sure = (placement.share >= SEEN_SHARE) & (placement.score >= SHAPE_IOU)
        if sure.any():
            way[:] = np.stack([np.interp(times, times[sure], placement.centre[sure, i]) for i in (0, 1)], axis=1)
    near = np.linalg.norm(ways[0] - ways[-1], axis=1) < TOUCH
    return near & (len(ways) > 1) & (ways >= 0).all(axis=(0, 2)), ways


def _beyond(centres: np.ndarray) -> np.ndarray:
    """`(T, H, W)` bool: further from the centres `(T, 2)` than a mover reaches."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    return np.hypot(x - centres[:, 0, None, None], y - centres[:, 1, None, None]) > REACH_OUT


def _track(frames: np.ndarray, mover: Mover, mask: np.ndarray, free: np.ndarray, found: _Placement,
           touching: np.ndarray) -> Track:
    seen = (found.share >= SEEN_SHARE) & (found.score >= np.where(touching, TOUCHING_IOU, SEEN_IOU))
    judged = seen & (found.share >= JUDGED_SHARE) & ~touching
    shape = np.where(judged, np.where(found.score >= SHAPE_IOU, found.shape, -1), -2)
    error = colour_error(frames, mask, seen & ~touching, mover.colour)
    centre = np.where(seen[:, None], found.centre, np.nan)
    return Track(centre, np.where(seen, found.share, 0.0), shape, error, free, touching)


def track(frames: np.ndarray, scene: Scene) -> tuple[tuple[Track, ...], np.ndarray]:
    """A track for each mover of the scene, and `(T,)` bool: the frame shows nothing else, and the wall if any."""
    labels, stray = segment(frames)
    free, standing = np.ones(labels.shape, bool), np.ones(len(frames), bool)
    if scene.wall:
        standing = wall_standing(frames)
        free[:, :, WALL_SPAN[0] - 1:WALL_SPAN[1] + 1] = False
        stray[:, :, WALL_SPAN[0] - WALL_MARGIN:WALL_SPAN[1] + WALL_MARGIN] = False
    masks, spaces, placements = [], [], []
    for mover in scene.movers:
        masks.append((labels == list(COLOURS).index(mover.colour)) & free)
        spaces.append(free)
        placements.append(_place(masks[-1], free))
        free = free & ~grown(masks[-1])
    touching, ways = _touching(placements)
    tracks = []
    for mover, mask, space, placement, way in zip(scene.movers, masks, spaces, placements, ways, strict=True):
        stray &= _beyond(placement.centre) & (_beyond(way) | ~touching[:, None, None])
        tracks.append(_track(frames, mover, mask, space, placement, touching))
    return tuple(tracks), standing & (stray.sum(axis=(1, 2)) < EXTRA_AREA)
