"""The folder of a run: finished chunks at once and whole, the video as it grows, trace and picture at the end."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..protocols import Codec
from ..run_folder import RunFolder
from ..video import VideoWriter
from ..video_parts import VideoParts

SCALE, SMALL = 4, 32   # latents up to this width are shown enlarged: the bundled world is 96 pixels wide


def open_video(folder: Path, rate: float, latent_width: int, codec: Codec | None,
               ends: Sequence[int] = ()) -> AbstractContextManager:
    """The video of a run; None where nothing decodes it. ends: of its parts, see `VideoParts`; none: it has one."""
    if codec is None:
        return nullcontext()
    path, scale = folder / "video.mp4", SCALE if latent_width <= SMALL else 1
    return VideoParts(path, rate, scale, ends) if ends else VideoWriter(path, rate, scale)


def prepare_folder(path: Path) -> Path:
    """Makes the folder and proves that it can be written, before anything is computed. Raises ValueError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ValueError(f"output folder {str(path)!r} cannot be written ({error.strerror}): choose another with "
                         "--out") from error
    return path


def to_frames(pixels: Tensor) -> np.ndarray:
    """Pixels `(1, 3, T, H, W)` in about [-1, 1] -> uint8 `(T, H, W, 3)`."""
    scaled = ((pixels[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(1, 2, 3, 0).contiguous().cpu().numpy()


class ChunkSink:
    """Receives finished chunks in order: saves each in the run's folder, decodes it, appends it to the video.

    One decoder serves the whole video, so that memory does not grow with it and seams are none. keep: also hold the
    decoded frames, for comparisons.
    """

    def __init__(self, home: RunFolder, codec: Codec | None, video: VideoWriter | None, keep: bool = False) -> None:
        self.home, self._stream, self._video = home, codec and codec.decode_stream(), video
        self._kept: list[np.ndarray] | None = [] if keep else None

    def __call__(self, chunk: int, latent: Tensor) -> None:
        self.home.save_chunk(chunk, latent)
        self.show(latent)

    def show(self, latent: Tensor) -> None:
        """Decodes a chunk into the video, without saving it."""
        if self._stream is None:
            return
        frames = to_frames(self._stream.push(latent))
        self._video.append(frames)
        if self._kept is not None:
            self._kept.append(frames)

    def frames(self) -> np.ndarray:
        """The decoded frames, uint8 `(T, H, W, 3)`."""
        return np.concatenate(self._kept)

    def __str__(self) -> str:
        if self.home.takes_over:
            return f"no chunk was added to the video in {self.home.path}"
        count = len(list(self.home.path.glob("chunk-*.safetensors")))   # an interrupt may come before one is counted
        if not count:
            return "no chunk was finished"
        kept = f"{count} finished chunk{'s' * (count > 1)} kept in {self.home.path}"
        return f"{kept}; go on with --resume {self.home.path}"
