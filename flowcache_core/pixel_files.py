"""Pictures and videos as the pixels that a request starts from."""

from collections import deque
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .video import pyav


def read_frames(path: Path, last: int | None = None) -> np.ndarray:
    """RGB uint8 `(T, H, W, 3)` of a picture or video, or of its last frames. Raises ValueError, one sentence."""
    if not path.is_file():
        raise ValueError(f"{path}: " + ("a folder" if path.is_dir() else "no such file")
                         + "; give a picture or a video")
    av = pyav()
    try:
        with av.open(str(path)) as file:
            frames = deque((frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)), maxlen=last)
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise ValueError(f"{path}: no picture or video that can be read ({error}); give a PNG, JPEG or mp4") from error
    if not frames:
        raise ValueError(f"{path}: no frame in it; give a picture or a video")
    return np.stack(list(frames))


def is_portrait(frames: np.ndarray) -> bool:
    return frames.shape[1] > frames.shape[2]


def to_pixels(frames: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Pixels `(1, 3, T, H, W)` in [-1, 1], resized (not cropped) to `size` = (H, W)."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
    if tuple(pixels.shape[2:]) != size:
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
    return pixels.transpose(0, 1).unsqueeze(0)
