"""Drawing in logical pixels. Everything is drawn at `SCALE` times the size and scaled down, which smooths it."""

from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Literal

import numpy as np

from .palette import BACKGROUND, INK, Colour

SCALE = 2
SHIFT = 4          # fractional bits of the points of lines
CAP_SHARE = 0.7    # height of a capital letter / font size

Align = Literal["left", "center", "right"]
Point = tuple[float, float]


def opencv() -> ModuleType:
    """The module cv2. Raises ImportError that names the remedy."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError(f"OpenCV cannot be imported ({error}): run 'pip install opencv-python-headless', which needs "
                          "no system libraries") from error
    return cv2


@lru_cache
def _font(bold: bool) -> tuple[int, int, float]:
    """Face, thickness, and height in pixels of a capital letter at font scale 1.

    OpenCV 5 draws the Hershey faces with an outline font whose weight follows the thickness; OpenCV 4 draws strokes.
    """
    cv2 = opencv()
    outline = hasattr(cv2, "FontFace")
    face, thickness = cv2.FONT_HERSHEY_SIMPLEX, (1 if outline else 2) + bold
    probe = np.zeros((200, 200), np.uint8)
    cv2.putText(probe, "H", (20, 180), face, 4, 255, 1, cv2.LINE_AA)
    rows = np.flatnonzero((probe > 127).any(axis=1))
    return face, thickness, (rows[-1] - rows[0] + 1) / 4


def _font_scale(size: float, bold: bool) -> float:
    return size * SCALE * CAP_SHARE / _font(bold)[2]


def text_width(text: str, size: float = 12, bold: bool = False) -> float:
    """Width of `text` in logical pixels."""
    face, thickness, _ = _font(bold)
    return opencv().getTextSize(text, face, _font_scale(size, bold), thickness)[0][0] / SCALE


def shorten(text: str, width: float, size: float = 12, bold: bool = False) -> str:
    """`text`, its end cut off where it is wider than `width` logical pixels."""
    if text_width(text, size, bold) <= width:
        return text
    while text and text_width(text + "...", size, bold) > width:
        text = text[:-1]
    return text.rstrip() + "..."


class Canvas:
    """A picture of `width x height` logical pixels, origin at the top left."""

    def __init__(self, width: float, height: float, background: Colour = BACKGROUND) -> None:
        self.width, self.height = round(width), round(height)
        self._pixels = np.full((self.height * SCALE, self.width * SCALE, 3), background, np.uint8)
        self._pasted: list[tuple[int, int, np.ndarray]] = []

    def rect(self, x: float, y: float, width: float, height: float, fill: Colour, radius: float = 0) -> None:
        """A filled rectangle, at least half a pixel wide and high; radius: of its corners."""
        cv2, r = opencv(), round(radius * SCALE)
        left, top = round(x * SCALE), round(y * SCALE)
        right, bottom = max(left + 1, round((x + width) * SCALE)) - 1, max(top + 1, round((y + height) * SCALE)) - 1
        cv2.rectangle(self._pixels, (left + r, top), (right - r, bottom), fill, cv2.FILLED)
        if r:
            cv2.rectangle(self._pixels, (left, top + r), (right, bottom - r), fill, cv2.FILLED)
            for cx in (left + r, right - r):
                for cy in (top + r, bottom - r):
                    cv2.circle(self._pixels, (cx, cy), r, fill, cv2.FILLED, cv2.LINE_AA)

    def _points(self, points: Sequence[Point]) -> np.ndarray:
        return np.round(np.array(points, np.float64) * SCALE * 2**SHIFT).astype(np.int32)

    def line(self, points: Sequence[Point], colour: Colour, width: float = 1.0) -> None:
        """A line through `points`."""
        cv2 = opencv()
        thickness = max(1, round(width * SCALE))
        cv2.polylines(self._pixels, [self._points(points)], False, colour, thickness, cv2.LINE_AA, SHIFT)

    def dashes(self, start: Point, stop: Point, colour: Colour, width: float = 1.0, dash: float = 5.0) -> None:
        """A dashed straight line."""
        a, b = np.array(start), np.array(stop)
        length = float(np.hypot(*(b - a)))
        for at in np.arange(0, length, 2 * dash):
            self.line([tuple(a + (b - a) * (min(t, length) / length)) for t in (at, at + dash)], colour, width)

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        cv2 = opencv()
        cv2.fillPoly(self._pixels, [self._points(points)], fill, cv2.LINE_AA, SHIFT)

    def dot(self, x: float, y: float, radius: float, fill: Colour) -> None:
        cv2, r = opencv(), round(radius * SCALE * 2**SHIFT)
        centre = tuple(int(v) for v in self._points([(x, y)])[0])
        cv2.circle(self._pixels, centre, r, fill, cv2.FILLED, cv2.LINE_AA, SHIFT)

    def text(self, x: float, y: float, text: str, size: float = 12, colour: Colour = INK, align: Align = "left",
             bold: bool = False) -> None:
        """One line of text. y: the middle of its capital letters; size: the font size."""
        cv2, (face, thickness, _) = opencv(), _font(bold)
        x -= {"left": 0.0, "center": 0.5, "right": 1.0}[align] * text_width(text, size, bold)
        origin = round(x * SCALE), round((y + size * CAP_SHARE / 2) * SCALE)
        cv2.putText(self._pixels, text, origin, face, _font_scale(size, bold), colour, thickness, cv2.LINE_AA)

    def paste(self, x: float, y: float, picture: np.ndarray) -> None:
        """Lays an RGB picture `(h, w, 3)` on top of everything drawn, its pixels as they are."""
        self._pasted.append((round(x), round(y), picture))

    def image(self) -> np.ndarray:
        """The picture, RGB uint8 `(height, width, 3)`."""
        cv2 = opencv()
        image = cv2.resize(self._pixels, (self.width, self.height), interpolation=cv2.INTER_AREA)
        for x, y, picture in self._pasted:
            image[y:y + picture.shape[0], x:x + picture.shape[1]] = picture
        return image
