"""The folder of a run: finished chunks at once and whole, the video as it grows, trace and picture at the end."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..protocols import Codec
from ..video import VideoWriter

SCALE = 4   # the bundled world is 96 pixels wide


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


def write_atomically(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file that is either whole or not there."""
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial)
    partial.replace(path)


def to_frames(pixels: Tensor) -> np.ndarray:
    """Pixels `(1, 3, T, H, W)` in about [-1, 1] -> uint8 `(T, H, W, 3)`."""
    scaled = ((pixels[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(1, 2, 3, 0).contiguous().cpu().numpy()


class ChunkSink:
    """Receives finished chunks in order: saves each as `chunk-0000.safetensors`, decodes it, appends it to the video.

    keep: also hold the decoded frames, for comparisons.
    """

    def __init__(self, folder: Path, codec: Codec, video: VideoWriter, keep: bool = False) -> None:
        self.folder, self._stream, self._video = folder, codec.decode_stream(), video
        self._kept: list[np.ndarray] | None = [] if keep else None
        self.saved = 0

    def __call__(self, chunk: int, latent: Tensor) -> None:
        write_atomically(self.folder / f"chunk-{chunk:04d}.safetensors", {"latent": latent.contiguous().cpu()})
        self.saved += 1
        frames = to_frames(self._stream.push(latent))
        self._video.append(frames)
        if self._kept is not None:
            self._kept.append(frames)

    def frames(self) -> np.ndarray:
        """The decoded frames, uint8 `(T, H, W, 3)`."""
        return np.concatenate(self._kept)

    def __str__(self) -> str:
        if not self.saved:
            return "no chunk was finished"
        return f"{self.saved} finished chunk{'s' * (self.saved > 1)} kept in {self.folder}"
