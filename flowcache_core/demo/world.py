"""The bundled world: one or two coloured shapes that move, bounce off the frame and pass behind one another or
behind a wall.

It needs memory (a shape that is hidden comes back where its motion says) and causality (the next frame follows from
the last ones). Frames are `SIZE x SIZE`, `FPS` per second. A mover sets off at the edge that it moves away from, keeps
its lane and its speed, and turns around where its edge meets the edge of the frame. The first mover is drawn in front
of the second, the wall in front of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIZE, FPS, RADIUS = 96, 16, 12
BACKGROUND, WALL = (24, 26, 34), (112, 112, 118)
WALL_SPAN = (28, 68)   # columns; wide enough to hide a mover wholly
COLOURS = {"red": (226, 52, 48), "green": (46, 184, 72), "blue": (52, 96, 232),
           "yellow": (240, 210, 48), "purple": (176, 64, 208), "white": (236, 236, 236)}
SHAPES = ("circle", "square", "triangle", "cross")
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}   # axis (0 = x), sign
SPEEDS = {"slowly": 1.0, "quickly": 2.0}   # pixels per frame
LANES = {"first": 18.0, "second": 48.0, "third": 78.0}   # pixels across the axis, from the top or from the left
LANE_JITTER, START_JITTER = 1.0, 6.0   # pixels that a start may lie beside its lane, and inside from its edge
TWO_MOVERS, WALLED = 0.4, 0.25         # shares of random scenes

# Pairs that no training clip shows; every colour and every shape is seen in other pairs.
HELD_OUT = frozenset({("red", "triangle"), ("green", "cross"), ("blue", "circle"), ("yellow", "square")})


@dataclass(frozen=True)
class Mover:
    """One moving shape, as the prompt names it."""

    colour: str
    shape: str
    direction: str
    speed: str
    lane: str = "second"

    @property
    def axis(self) -> int:
        return DIRECTIONS[self.direction][0]

    @property
    def velocity(self) -> float:
        return DIRECTIONS[self.direction][1] * SPEEDS[self.speed]


@dataclass(frozen=True)
class Scene:
    """What the prompt says: movers front to back, and whether a wall stands in the middle."""

    movers: tuple[Mover, ...]
    wall: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.movers) <= 2:
            raise ValueError(f"{len(self.movers)} shapes: a scene has one or two")
        if len({mover.colour for mover in self.movers}) < len(self.movers):
            raise ValueError(f"two {self.movers[0].colour} shapes: give the two shapes different colours")
        first, last = self.movers[0], self.movers[-1]
        if first is not last and (first.axis, first.lane) == (last.axis, last.lane):
            raise ValueError(f"two shapes in the {last.lane} lane: give one another lane or another axis")
        if self.wall and any(mover.axis for mover in self.movers):
            raise ValueError("a shape that moves up or down cannot pass behind the wall: use left or right")


@dataclass(frozen=True)
class Start:
    """What the prompt leaves open: the exact place of a mover along its axis and across it, in pixels."""

    along: float
    across: float


def bounce(start: float, velocity: float, frames: np.ndarray) -> np.ndarray:
    """Positions of a mover's centre along its axis at `frames`, reflected at both edges of the frame."""
    low, span = RADIUS, SIZE - 2 * RADIUS
    phase = np.mod(start - low + velocity * frames, 2 * span)
    return low + np.where(phase <= span, phase, 2 * span - phase)


def centres(mover: Mover, start: Start, frames: int, first: int = 0) -> np.ndarray:
    """Centres `(frames, 2)` as x, y, from frame `first` of the video on."""
    along = bounce(start.along, mover.velocity, np.arange(first, first + frames, dtype=np.float64))
    across = np.full(frames, start.across)
    return np.stack([across, along] if mover.axis else [along, across], axis=1)


def _distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to the shape's edge, negative inside; x, y relative to the centre."""
    r = RADIUS
    if shape == "circle":
        return np.hypot(x, y) - r
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.86 * r
    if shape == "cross":
        thin, long = 0.36 * r, float(r)
        upright = np.maximum(np.abs(x) - thin, np.abs(y) - long)
        return np.minimum(upright, np.maximum(np.abs(x) - long, np.abs(y) - thin))
    slope = 0.4472135955   # triangle: apex up, base 2r, height 2r; 1 / sqrt(5)
    return np.maximum(y - r, (2 * np.abs(x) - (y + r)) * slope)


def render(scene: Scene, starts: Sequence[Start], frames: int, first: int = 0) -> np.ndarray:
    """Frames `(frames, SIZE, SIZE, 3)`, uint8 RGB, from frame `first` of the video on."""
    grid = np.arange(SIZE, dtype=np.float32) + 0.5
    video = np.broadcast_to(np.float32(BACKGROUND), (frames, SIZE, SIZE, 3)).copy()
    for mover, start in reversed(list(zip(scene.movers, starts, strict=True))):
        centre = centres(mover, start, frames, first).astype(np.float32)
        x = grid[None, None, :] - centre[:, 0, None, None]
        y = grid[None, :, None] - centre[:, 1, None, None]
        cover = np.clip(0.5 - _distance(mover.shape, x, y), 0, 1)[..., None]
        video += cover * (np.float32(COLOURS[mover.colour]) - video)
    if scene.wall:
        video[:, :, WALL_SPAN[0]:WALL_SPAN[1]] = WALL
    return np.round(video).astype(np.uint8)


def random_starts(scene: Scene, rng: np.random.Generator) -> tuple[Start, ...]:
    """Places for the movers: near the edge that each moves away from, near the middle of its lane."""
    starts = []
    for mover in scene.movers:
        inside = rng.uniform(0, START_JITTER)
        along = RADIUS + inside if mover.velocity > 0 else SIZE - RADIUS - inside
        starts.append(Start(along, LANES[mover.lane] + rng.uniform(-LANE_JITTER, LANE_JITTER)))
    return tuple(starts)


def random_scene(rng: np.random.Generator, held_out: bool = False) -> Scene:
    """A scene of the training distribution, or (`held_out`) one whose first mover is a held-out pair."""
    pairs = [(c, s) for c in COLOURS for s in SHAPES if ((c, s) in HELD_OUT) == held_out]
    common = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in HELD_OUT]
    wall, count = bool(rng.random() < WALLED), 1 + int(rng.random() < TWO_MOVERS)
    movers: list[Mover] = []
    while len(movers) < count:
        choice = common if movers else pairs
        colour, shape = choice[rng.integers(len(choice))]
        directions = ("left", "right") if wall else tuple(DIRECTIONS)
        mover = Mover(colour, shape, *(str(rng.choice(words)) for words in (directions, tuple(SPEEDS), tuple(LANES))))
        if all(mover.colour != m.colour and (mover.axis, mover.lane) != (m.axis, m.lane) for m in movers):
            movers.append(mover)
    return Scene(tuple(movers), wall)
