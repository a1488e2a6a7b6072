"""How close a video is to its reference: PSNR over everything, PSNR where something moves, SSIM.

Videos are RGB `(T, H, W, 3)`: uint8 in 0..255, or floating point in 0..1. Two videos must agree in shape and kind.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MOVED = 8 / 255            # change of a channel, as a share of its range, that counts as motion
SSIM_SIZE, SSIM_SIGMA = 11, 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03


def _peak(video: np.ndarray, reference: np.ndarray) -> float:
    """The largest value a channel can have. Raises ValueError for videos that cannot be compared."""
    for frames in (video, reference):
        if frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
            raise ValueError(f"video of shape {frames.shape}: expected (frames, height, width, 3), nothing empty")
        if frames.dtype != np.uint8 and not np.issubdtype(frames.dtype, np.floating):
            raise ValueError(f"video of {frames.dtype}: expected uint8 in 0..255 or floating point in 0..1")
    if video.shape != reference.shape:
        raise ValueError(f"videos of shapes {video.shape} and {reference.shape}: compare videos of one length and size")
    if (video.dtype == np.uint8) != (reference.dtype == np.uint8):
        raise ValueError(f"videos of {video.dtype} and {reference.dtype}: give both as uint8 or both as floating point")
    return 255.0 if video.dtype == np.uint8 else 1.0


def _decibels(squares: float, count: int, peak: float) -> float:
    if not count:
        return math.nan
    return math.inf if squares == 0 else 10 * math.log10(peak**2 * count / squares)


def _squared_error(video: np.ndarray, reference: np.ndarray) -> np.ndarray:
    return (video.astype(np.float64) - reference.astype(np.float64)) ** 2


def psnr(video: np.ndarray, reference: np.ndarray) -> float:
    """PSNR in dB from one mean squared error over all frames, pixels and channels; inf for identical videos."""
    peak = _peak(video, reference)
    squares = sum(float(_squared_error(a, b).sum()) for a, b in zip(video, reference, strict=True))
    return _decibels(squares, video.size, peak)


def moving_pixels(reference: np.ndarray, radius: int = 2) -> np.ndarray:
    """Where something moves, bool `(T, H, W)`: pixels of which a channel changes by more than `MOVED` of its range from
    the frame before or to the frame after, and all pixels within `radius` of them, across and down."""
    peak = _peak(reference, reference)
    moving = np.zeros(reference.shape[:3], bool)
    for t in range(len(reference) - 1):
        before, after = reference[t].astype(np.float32), reference[t + 1].astype(np.float32)
        change = np.abs(after - before).max(axis=-1) > MOVED * peak
        moving[t] |= change
        moving[t + 1] |= change
    grown = F.max_pool2d(torch.from_numpy(moving).float()[:, None], 2 * radius + 1, stride=1, padding=radius)
    return grown[:, 0].numpy() > 0


def psnr_moving(video: np.ndarray, reference: np.ndarray, radius: int = 2) -> float:
    """PSNR in dB over `moving_pixels(reference)` alone; nan where nothing moves, inf where all are identical."""
    peak, moving = _peak(video, reference), moving_pixels(reference, radius)
    squares = sum(float(_squared_error(a, b)[m].sum()) for a, b, m in zip(video, reference, moving, strict=True))
    return _decibels(squares, 3 * int(moving.sum()), peak)


def _blurred(images: Tensor, weights: Tensor) -> Tensor:
    """`(N, 1, H, W)` -> `(N, 1, H - 10, W - 10)`: a Gaussian where it lies wholly inside the image."""
    return F.conv2d(F.conv2d(images, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))


def _ssim_frame(a: np.ndarray, b: np.ndarray, weights: Tensor, peak: float) -> float:
    x, y = (torch.from_numpy(np.ascontiguousarray(v)).double().permute(2, 0, 1)[:, None] for v in (a, b))
    mean_x, mean_y, xx, yy, xy = _blurred(torch.cat([x, y, x * x, y * y, x * y]), weights).split(3)
    c1, c2 = (SSIM_K1 * peak) ** 2, (SSIM_K2 * peak) ** 2
    structure = (2 * (xy - mean_x * mean_y) + c2) / (xx - mean_x**2 + yy - mean_y**2 + c2)
    return float(((2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1) * structure).mean())


def ssim(video: np.ndarray, reference: np.ndarray) -> float:
    """SSIM (Wang et al. 2004) in -1..1, 1 for identical videos: Gaussian window of 11 x 11 with sigma 1.5, per frame
    and channel, averaged over all of them and over the places where the window lies inside the frame."""
    peak = _peak(video, reference)
    if min(video.shape[1:3]) < SSIM_SIZE:
        raise ValueError(f"frames of {video.shape[2]} x {video.shape[1]}: SSIM needs {SSIM_SIZE} x {SSIM_SIZE} or more")
    offsets = torch.arange(SSIM_SIZE, dtype=torch.float64) - SSIM_SIZE // 2
    weights = torch.softmax(-offsets**2 / (2 * SSIM_SIGMA**2), dim=0)
    return float(np.mean([_ssim_frame(a, b, weights, peak) for a, b in zip(video, reference, strict=True)]))


def json_number(value: float, cap: float | None = None) -> float | None:
    """`value` as JSON can hold it: +-inf becomes +-`cap` (None: null), nan becomes null."""
    if math.isinf(value):
        return None if cap is None else math.copysign(cap, value)
    return None if math.isnan(value) else value


@dataclass(frozen=True)
class Quality:
    """psnr, psnr_moving: dB; ssim: -1..1."""

    psnr: float
    psnr_moving: float
    ssim: float

    def to_json(self) -> dict[str, float | None]:
        """The numbers by name; null where a PSNR is infinite (identical) or nothing moves."""
        return {"psnr": json_number(self.psnr), "psnr_moving": json_number(self.psnr_moving), "ssim": self.ssim}


def compare(video: np.ndarray, reference: np.ndarray) -> Quality:
    """All three measures of `video` against `reference`."""
    return Quality(psnr(video, reference), psnr_moving(video, reference), ssim(video, reference))
