"""Curves of measured settings: one quantity over another, a line a method; and the settings that none dominates."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from .canvas import Canvas, Point, shorten
from .grid import LABEL, card
from .palette import ACCENT, GRID, INK, MUTED, PASSES, SERIES, Colour

WIDTH, HEIGHT, MARGIN = 860, 480, 16
LEFT, TOP, FOOT, LEGEND = 76, 56, 60, 200
COLOURS: tuple[Colour, ...] = (*SERIES, PASSES["recache"], PASSES["prefix"], INK, (136, 34, 85), (221, 204, 119))


def pareto(points: Sequence[Point]) -> list[Point]:
    """Those for which no other is at least as large in both numbers, by the first number."""
    found: list[Point] = []
    for x, y in sorted(set(points), key=lambda p: (-p[0], -p[1])):
        if not found or y > found[-1][1]:
            found.append((x, y))
    return found[::-1]


def round_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    raw = max(high - low, 1e-12) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * n for n in range(first, int(high / step + 1e-9) + 1)]


class Plane:
    """Where points lie; both ranges are those of the points, a little widened."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.x, self.y = MARGIN + LEFT, MARGIN + TOP
        self.width, self.height = WIDTH - 2 * MARGIN - LEFT - LEGEND, HEIGHT - 2 * MARGIN - TOP - FOOT
        self.low, self.high = [], []
        for values in zip(*points, strict=True):
            room = 0.06 * (max(values) - min(values)) or 0.06 * abs(max(values)) or 1.0
            self.low.append(min(values) - room)
            self.high.append(max(values) + room)

    def at(self, point: Point) -> Point:
        x, y = ((value - low) / (high - low) for value, low, high in zip(point, self.low, self.high, strict=True))
        return self.x + x * self.width, self.y + (1 - y) * self.height

    def draw(self, canvas: Canvas, x_word: str, y_word: str) -> None:
        for value in round_ticks(self.low[1], self.high[1]):
            y = self.at((self.low[0], value))[1]
            canvas.line([(self.x, y), (self.x + self.width, y)], GRID)
            canvas.text(self.x - 7, y, f"{value:,.10g}", LABEL, MUTED, "right")
        for value in round_ticks(self.low[0], self.high[0]):
            x = self.at((value, self.low[1]))[0]
            canvas.line([(x, self.y), (x, self.y + self.height)], GRID)
            canvas.text(x, self.y + self.height + 13, f"{value:,.10g}", LABEL, MUTED, "center")
        canvas.text(self.x, self.y + self.height + 34, x_word, LABEL, INK)
        canvas.text(self.x - 60, self.y - 14, y_word, LABEL, INK)


def curve_picture(title: str, x_word: str, y_word: str, series: Mapping[str, Sequence[Point]],
                  front: bool = True) -> np.ndarray:
    """The points of every method, joined in order of x; `front` dashes the line of those that no other dominates
    (larger is better in both). RGB uint8 `(480, 860, 3)`. Raises ValueError where there is nothing to draw."""
    points = [point for its in series.values() for point in its]
    if not points:
        raise ValueError("a picture of 0 points: give at least one")
    canvas, plane = Canvas(WIDTH, HEIGHT), Plane(points)
    card(canvas, MARGIN, MARGIN, WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN, title)
    plane.draw(canvas, x_word, y_word)
    best = pareto(points) if front else []
    for start, stop in zip(best, best[1:], strict=False):
        canvas.dashes(plane.at(start), plane.at(stop), ACCENT, 1.5)
    left, top = plane.x + plane.width + 16, plane.y
    for n, (name, its) in enumerate(series.items()):
        colour = COLOURS[n % len(COLOURS)]
        places = [plane.at(point) for point in sorted(its)]
        if len(places) > 1:
            canvas.line(places, colour, 1.5)
        for place in places:
            canvas.dot(*place, 3.5, colour)
        canvas.dot(left + 5, top + 19 * n, 4, colour)
        canvas.text(left + 16, top + 19 * n, shorten(name, LEGEND - 30, LABEL), LABEL, INK)
    if front and len(best) > 1:
        y = top + 19 * len(series) + 4
        canvas.dashes((left - 2, y), (left + 12, y), ACCENT, 1.5, dash=4)
        canvas.text(left + 16, y, shorten("not dominated", LEGEND - 30, LABEL), LABEL, ACCENT)
    return canvas.image()
