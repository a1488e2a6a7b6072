"""Videos beside one another: as a sheet of frames, and as one video with labels."""

import math
from collections.abc import Mapping

import numpy as np

from ..metrics import psnr
from .canvas import Canvas, opencv, shorten
from .grid import card
from .palette import CARD, INK, MUTED

GAIN = 8.0                     # of differences: at 8 a difference of 32 of 255 is the brightest
LABEL_HEIGHT, LABEL_SIZE = 26, 13
PANEL_GAP = 8
FRAME_SIZE = 128               # longer side of a frame on a sheet; smaller frames are enlarged to this or more
MARGIN, INSET, FRAME_GAP = 24, 20, 6


def _checked(videos: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
    """Frames, height and width that all videos share. Raises ValueError where they do not."""
    if not videos:
        raise ValueError("0 videos: give at least one")
    for label, frames in videos.items():
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
            raise ValueError(f"video {label!r} of {frames.dtype} {frames.shape}: expected uint8 "
                             "(frames, height, width, 3), nothing empty")
    shapes = {label: frames.shape[:3] for label, frames in videos.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{label!r} {shape}" for label, shape in shapes.items())
        raise ValueError(f"videos of different (frames, height, width): {listed}; make them agree")
    return next(iter(shapes.values()))


def amplified_error(video: np.ndarray, reference: np.ndarray, gain: float = GAIN) -> np.ndarray:
    """Where two videos `(T, H, W, 3)` differ, as uint8 `(T, H, W, 3)`: black is equal, over red to light yellow.

    A pixel shows its largest difference over the channels, times `gain`.
    """
    _checked({"video": video, "reference": reference})
    cv2 = opencv()
    difference = np.abs(video.astype(np.int16) - reference).max(axis=-1)
    shown = np.minimum(difference * gain, 255).astype(np.uint8)
    coloured = (cv2.applyColorMap(frame, cv2.COLORMAP_INFERNO) for frame in shown)
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in coloured])


def side_by_side(videos: Mapping[str, np.ndarray], scale: int = 1, gain: float | None = None) -> np.ndarray:
    """Labelled videos in one, uint8 `(T, H', W', 3)`, first to last from left to right.

    scale: whole-number enlargement without smoothing. gain: add a panel with the difference between the second video
    and the first, times this. Long videos can be handed over and written piece by piece.
    """
    frames, height, width = _checked(videos)
    panels = dict(videos)
    if gain is not None:
        if len(videos) < 2:
            raise ValueError("a difference of 1 video: give a second one, or no gain")
        first, second = list(videos.values())[:2]
        panels[f"difference x{gain:g}"] = amplified_error(second, first, gain)
    height, width = height * scale, width * scale
    canvas = Canvas(len(panels) * (width + PANEL_GAP) - PANEL_GAP, LABEL_HEIGHT + height, CARD)
    for n, label in enumerate(panels):
        label = shorten(label, width - 16, LABEL_SIZE)
        canvas.text(n * (width + PANEL_GAP) + 8, LABEL_HEIGHT / 2, label, LABEL_SIZE, INK)
    out = np.repeat(canvas.image()[None], frames, axis=0)
    for n, panel in enumerate(panels.values()):
        left = n * (width + PANEL_GAP)
        out[:, LABEL_HEIGHT:, left:left + width] = panel.repeat(scale, axis=1).repeat(scale, axis=2)
    return out


def contact_sheet(videos: Mapping[str, np.ndarray], columns: int = 8, gain: float = GAIN) -> np.ndarray:
    """A strip of frames of every video, and how each differs from the first; RGB uint8 `(H, W, 3)`.

    columns: frames of a strip, spread evenly over the video (all of them where it has fewer). gain: of differences.
    """
    count, height, width = _checked(videos)
    if columns < 1:
        raise ValueError(f"{columns} columns: expected at least 1")
    picked = np.unique(np.linspace(0, count - 1, min(columns, count)).round().astype(int))
    reference_label, reference = next(iter(videos.items()))
    strips: list[tuple[str, str, np.ndarray]] = []
    for label, frames in videos.items():
        compared = frames is not reference
        strips.append((label, _likeness(frames, reference) if compared else "", frames[picked]))
        if compared:
            error = amplified_error(frames[picked], reference[picked], gain)
            strips.append((f"difference x{gain:g}", f"{label} and {reference_label}", error))
    return _draw_sheet(strips, picked, *_frame_size(height, width))


def _likeness(frames: np.ndarray, reference: np.ndarray) -> str:
    value = psnr(frames, reference)
    return "identical" if math.isinf(value) else f"PSNR {value:.2f} dB"


def _frame_size(height: int, width: int) -> tuple[int, int]:
    """The size at which frames are shown: enlarged by a whole number, or reduced to `FRAME_SIZE`."""
    longer = max(height, width)
    if longer <= FRAME_SIZE:
        scale = math.ceil(FRAME_SIZE / longer)
        return height * scale, width * scale
    return max(1, round(height * FRAME_SIZE / longer)), max(1, round(width * FRAME_SIZE / longer))


def _draw_sheet(strips: list[tuple[str, str, np.ndarray]], picked: np.ndarray, height: int, width: int) -> np.ndarray:
    cv2 = opencv()
    inner = max(240, len(picked) * (width + FRAME_GAP) - FRAME_GAP) + 2 * INSET
    pitch = height + 30 + 16
    canvas = Canvas(inner + 2 * MARGIN, 2 * MARGIN + 40 + len(strips) * pitch)
    card(canvas, MARGIN, MARGIN, inner, 40 + len(strips) * pitch, "")
    left = MARGIN + INSET
    for n, frame in enumerate(picked):
        canvas.text(left + n * (width + FRAME_GAP) + width / 2, MARGIN + 22, f"frame {frame}", 10, MUTED, "center")
    for row, (label, note, frames) in enumerate(strips):
        top = MARGIN + 36 + row * pitch
        canvas.text(left, top + 14, shorten(label, inner * 0.6, 13, bold=True), 13, INK, bold=True)
        canvas.text(left + inner - 2 * INSET, top + 14, shorten(note, inner * 0.38, 12), 12, MUTED, "right")
        for n, frame in enumerate(frames):
            kind = cv2.INTER_NEAREST if height >= frame.shape[0] else cv2.INTER_AREA
            shown = cv2.resize(frame, (width, height), interpolation=kind)
            canvas.paste(left + n * (width + FRAME_GAP), top + 28, shown)
    return canvas.image()
