"""The pixels of windows that follow one another: decoded as chunks finish, joined where windows meet."""

from typing import Literal

import torch
from torch import Tensor

from ..protocols import Codec

Overlap = Literal["pixels", "latents"]
TEMPORAL = 4   # pixel frames a latent frame of the Wan2.1 codec, but for the first


def shown_frames(latent_frames: int) -> int:
    """Pixel frames of a clip of so many latent frames."""
    return TEMPORAL * (latent_frames - 1) + 1


def latents_for(pixel_frames: int) -> int:
    """Latent frames of the shortest clip that has at least so many pixel frames."""
    if pixel_frames < 1:
        raise ValueError(f"{pixel_frames} pixel frames: a video needs at least 1")
    return -(-(pixel_frames - 1) // TEMPORAL) + 1


class Stitcher:
    """Decodes one window after the other; every window is a clip of its own.

    The frames that two windows share are shown once. overlap: how the next window begins. "pixels" (SkyReels-V2): the
    last pixel frames of a window are shown, and encoded again; "latents" (CausVid): they are left to the next window,
    which begins with the first of them encoded as a clip of one frame, and the latents of the others as they are.
    limit: pixel frames of the whole video; what is beyond is cut off.
    """

    def __init__(self, codec: Codec, overlap: Overlap = "pixels", limit: int | None = None) -> None:
        self._codec, self._overlap, self._left = codec, overlap, limit
        self._shared, self._last = 0, True
        self._tail: Tensor | None = None

    def begin(self, given: Tensor | None, shared: int, last: bool, first: bool) -> Tensor | None:
        """A new window. given: its prefix latents; shared: latent frames that the next one will repeat; last, first:
        whether it is that of the video. Returns pixels to show, as `push` does."""
        self._stream, self._tail = self._codec.decode_stream(), None
        self._shared, self._last = shown_frames(shared) if shared else 0, last
        if given is None:
            return None
        return self._pass_on(self._stream.push(given), shown=first or self._overlap == "latents")

    def push(self, latent: Tensor) -> Tensor:
        """Pixels `(B, 3, T, H, W)` to show of the window's next latents; T may be 0."""
        return self._pass_on(self._stream.push(latent), shown=True)

    def _pass_on(self, pixels: Tensor, shown: bool) -> Tensor:
        keep = 0 if self._last else self._shared
        tail = pixels if self._tail is None else torch.cat([self._tail, pixels], dim=2)
        if self._overlap == "latents":   # what is kept back has not been shown
            pixels, tail = (tail[:, :, :-keep], tail[:, :, -keep:]) if keep else (tail, tail[:, :, :0])
        self._tail = tail[:, :, -keep:].clone() if keep else None
        pixels = pixels if shown else pixels[:, :, :0]
        if self._left is not None:
            pixels = pixels[:, :, :self._left]
            self._left -= pixels.shape[2]
        return pixels

    def prefix(self, latents: Tensor) -> Tensor:
        """Prefix latents of the next window. latents: the last ones of this window, as many as it repeats."""
        if self._overlap == "pixels":
            return self._codec.encode(self._tail)
        return torch.cat([self._codec.encode(self._tail[:, :, :1]), latents[:, :, 1:]], dim=2)
