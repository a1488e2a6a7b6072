"""Where the movers of a scene are in a video, from the pixels alone.

Pixels get the palette colour whose mixture with the background they are. Each mover is then the placement of a shape
template that overlaps its colour best, counting only the area that no occluder (wall, edge of the frame, front
mover) covers; so a half hidden mover still has a place and a shape. Coordinates are pixels, x right and y down.
"""

from dataclasses import dataclass

import numpy as np

from .world import (
    BACKGROUND,
    COLOURS,
    RADIUS,
    SHAPES,
    SIZE,
    WALL,
    WALL_SPAN,
    Mover,
    Scene,
    _distance,
)

HALF_COVER = 0.5        # a pixel is a mover's where the mover covers half of it: the template's own edge
FOREGROUND = 70         # RGB distance from the background; noise of sigma 8 has 14, the darkest palette colour 193
SEEN_SHARE = 0.3        # with less of a shape in view, its place and shape are a guess
SEEN_IOU = 0.35         # below this overlap a blob is no shape of the world in any placement
TOUCHING_IOU = 0.75     # for movers that touch, whose masks may be eaten into; undamaged ones have 0.9 and more
JUDGED_SHARE = 0.6      # a shape is judged where this much of it is in view: all four differ there
SHAPE_IOU = 0.6         # a shape of 0.8 times the right size has 0.64
EXPLAINED_RADIUS = RADIUS + 5   # a square's corners reach 14.6; the rest is blur
EXTRA_AREA = 70         # pixels; a fifth of the smallest shape (the cross, 340)
WALL_MARGIN = 2         # columns at the wall's edges that blur and jitter may take
WALL_DISTANCE, WALL_SHARE = 60, 0.93   # RGB; half the wall's contrast. A mover before the wall takes 12 % of it
TOUCH = 2 * RADIUS + 4   # pixels between centres; a codec with cells of 8 pixels mixes the colours of close movers
COARSE, FINE = 12, 2    # search radii in pixels around the blob's centre, then around the best whole-pixel place
CHUNK = 64              # frames segmented at once; bounds the memory


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


def _blob_centres(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre pixel `(T, 2)` of each frame's largest blob, and whether there is one."""
    import cv2

    pixels, found = np.zeros((len(masks), 2), np.int64), np.zeros(len(masks), bool)
    for t, mask in enumerate(masks):
        count, _, stats, middle = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        if count > 1:
            largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
            pixels[t], found[t] = np.round(middle[largest]), True
    return pixels, found


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
    middle, found = _blob_centres(mask)
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


def _touching(placements: list[_Placement]) -> tuple[np.ndarray, np.ndarray]:
    """`(T,)` bool: the two movers touch; and their ways `(movers, T, 2)`, which bridge doubtful frames."""
    times = np.arange(len(placements[0].share))
    ways = np.full((len(placements), len(times), 2), -float(SIZE))
    for way, placement in zip(ways, placements, strict=True):
        sure = (placement.share >= SEEN_SHARE) & (placement.score >= SHAPE_IOU)
        if sure.any():
            way[:] = np.stack([np.interp(times, times[sure], placement.centre[sure, i]) for i in (0, 1)], axis=1)
    near = np.linalg.norm(ways[0] - ways[-1], axis=1) < TOUCH
    return near & (len(ways) > 1) & (ways >= 0).all(axis=(0, 2)), ways


def _colour_error(frames: np.ndarray, mask: np.ndarray, seen: np.ndarray, colour: str) -> np.ndarray:
    import cv2

    error = np.full(len(frames), np.nan)
    for t in np.flatnonzero(seen):
        inside = cv2.erode(mask[t].astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0)
        mean = np.array(cv2.mean(frames[t], inside if inside.any() else mask[t].astype(np.uint8))[:3])
        error[t] = np.linalg.norm(mean - COLOURS[colour])
    return error


def _grown(masks: np.ndarray) -> np.ndarray:
    import cv2

    return np.stack([cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0 for mask in masks])


def _beyond(centres: np.ndarray) -> np.ndarray:
    """`(T, H, W)` bool: further from the centre than a mover reaches."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    return np.hypot(x - centres[:, 0, None, None], y - centres[:, 1, None, None]) > EXPLAINED_RADIUS


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
        free = free & ~_grown(masks[-1])
    touching, ways = _touching(placements)
    tracks = []
    for mover, mask, space, placement, way in zip(scene.movers, masks, spaces, placements, ways, strict=True):
        stray &= _beyond(placement.centre) & (_beyond(way) | ~touching[:, None, None])
        tracks.append(_track(frames, mover, mask, space, placement, touching))
    return tuple(tracks), standing & (stray.sum(axis=(1, 2)) < EXTRA_AREA)


def _track(frames: np.ndarray, mover: Mover, mask: np.ndarray, free: np.ndarray, found: _Placement,
           touching: np.ndarray) -> Track:
    seen = (found.share >= SEEN_SHARE) & (found.score >= np.where(touching, TOUCHING_IOU, SEEN_IOU))
    judged = seen & (found.share >= JUDGED_SHARE) & ~touching
    shape = np.where(judged, np.where(found.score >= SHAPE_IOU, found.shape, -1), -2)
    error = _colour_error(frames, mask, seen & ~touching, mover.colour)
    centre = np.where(seen[:, None], found.centre, np.nan)
    return Track(centre, np.where(seen, found.share, 0.0), shape, error, free, touching)


def share_in_view(seen_by: Track, mover: Mover, frames: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Share `(N,)` of a mover that would be in view, were it centred at `centres` `(N, 2)` in those `frames`."""
    pixels = np.floor(centres).astype(np.int64)
    stamps = templates(mover.shape, centres - pixels - 0.5, RADIUS + 1)
    cut = crops(seen_by.free[frames], pixels, RADIUS + 1)
    return (cut * stamps).sum(1) / stamps.sum(1)
