"""The frames of windows that follow one another, decoded by the host's VAE as chunks finish."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...flowcache_core.plan import Window
from ...flowcache_core.profiles import Profile
from ...flowcache_core.sampling.stitching import Stitcher
from .listening import Frames
from .vae_stream import VaeStream


class WindowStream:
    """Decodes a window of so many latent frames; the last of them bring all pixels that the decoder held back."""

    def __init__(self, vae: Any, model: Any, frames: int) -> None:
        self._stream, self._model, self._left = VaeStream(vae, model), model, frames

    def push(self, latent: Tensor) -> Tensor:
        """Pixels `(B, 3, T, H, W)` in 0..1 of latents in the model's own scale."""
        frames = self._stream.push(self._model.model.process_latent_out(latent))
        self._left -= latent.shape[2]
        rest = None if self._left else self._stream.finish()
        return (frames if rest is None else torch.cat([frames, rest], dim=1)).movedim(-1, 1)


class WindowCodec:
    """The host's VAE as `Stitcher` asks for it. frames: latent frames of the windows, in their order."""

    def __init__(self, vae: Any, model: Any, frames: Iterator[int]) -> None:
        self._vae, self._model, self._frames = vae, model, frames

    def decode_stream(self) -> WindowStream:
        return WindowStream(self._vae, self._model, next(self._frames))

    def encode(self, pixels: Tensor) -> Tensor:
        latents = torch.cat([self._vae.encode(clip.movedim(0, -1)) for clip in pixels])
        return self._model.model.process_latent_in(latents)


class WindowFrames(Frames):
    """Decodes every finished chunk of windows that follow one another; frames that two of them share come once."""

    def __init__(self, vae: Any, model: Any, profile: Profile, windows: Sequence[Window]) -> None:
        VaeStream(vae, model).close()   # refuses a VAE of another kind
        super().__init__(vae, model)
        self._windows = windows
        self.stitcher = Stitcher(WindowCodec(vae, model, iter([w.frames for w in windows])), profile.overlap)

    def window(self, number: int, given: int) -> None:
        """Begins a window; its first `given` latent frames are not made, and come first."""
        self._number, self._wanting, self._given = number, given, []
        if not given:
            self._open(None)

    def _open(self, given: Tensor | None) -> None:
        n, last = self._number, self._number == len(self._windows) - 1
        self._show(self.stitcher.begin(given, 0 if last else self._windows[n + 1].prefix, last, n == 0))

    def _show(self, pixels: Tensor | None) -> None:
        self._add(None if pixels is None else pixels.movedim(1, -1))

    def chunk(self, latent: Tensor) -> None:
        if not self._wanting:
            self._show(self.stitcher.push(latent))
            return
        self._given.append(latent)
        self._wanting -= latent.shape[2]
        if not self._wanting:
            self._open(torch.cat(self._given, dim=2))
