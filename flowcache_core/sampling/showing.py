"""What is shown of a video of windows while it is made, and once more of what was made before."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..protocols import Codec
from .stitching import Stitcher
from .video_request import VideoRequest

OnFrames = Callable[[Tensor], None]


class Showing:
    """Hands pixels on in their order. codec: None where nobody wants any; first: the window that they begin with."""

    def __init__(self, request: VideoRequest, codec: Codec | None, on_frames: OnFrames | None, first: int) -> None:
        limit = request.pixel_frames
        limit = None if limit is None else max(0, limit - request.shown_before(first))
        self._request, self._on_frames = request, on_frames
        self._stitcher = None if codec is None else Stitcher(codec, request.overlap, limit)

    def _show(self, pixels: Tensor | None, quietly: bool = False) -> None:
        if self._on_frames is not None and not quietly and pixels is not None and pixels.shape[2]:
            self._on_frames(pixels)

    def begin(self, number: int, given: Tensor | None, made: Sequence[Tensor], quietly: bool) -> None:
        """Begins a window with what it is given and those of its latents that are finished. quietly: they were
        shown before."""
        if self._stitcher is None:
            return
        last = number + 1 == len(self._request.windows)
        shared = 0 if last else self._request.windows[number + 1].prefix
        self._show(self._stitcher.begin(given, shared, last, first=number == 0), quietly)
        for latent in made:
            self._show(self._stitcher.push(latent), quietly)

    def push(self, latent: Tensor) -> None:
        """The window's next latents."""
        if self._stitcher is not None:
            self._show(self._stitcher.push(latent))

    def next_prefix(self, number: int, latents: Tensor) -> Tensor:
        """What the window after `number` is given. latents: the last ones of `number`, at least as many."""
        return self._stitcher.prefix(latents[:, :, -self._request.windows[number + 1].prefix:])

    def replay(self, first: int, number: int, latents: Tensor, given: Tensor | None) -> Tensor | None:
        """Shows the windows from `first` to the one before `number` once more; what `number` is given. latents: of the
        video so far; given: what `first` was, for window 0 taken from the latents."""
        windows = self._request.windows
        if not first:
            given = latents[:, :, :windows[0].prefix] if windows[0].prefix else None
        for before in range(first, number):
            window = windows[before]
            new = latents[:, :, window.start + window.prefix:window.stop]
            self.begin(before, given, [new], quietly=False)
            given = self.next_prefix(before, new if given is None else torch.cat([given, new], dim=2))
        return given
