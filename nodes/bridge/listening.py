"""What happens while a chunked run goes on: frames are decoded, and somebody is told."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...flowcache_core.run_state import RunState
from ...flowcache_core.trace import Trace
from .vae_stream import VaeStream

if TYPE_CHECKING:
    from .run import ChunkedRun


class Listener:
    """Told of everything in the course of one run; does nothing with it. keeps_state: whether it wants states."""

    keeps_state = False
    words: Callable[[str], None] | None = None

    def begin(self, run: "ChunkedRun") -> None:
        """Before the first pass."""

    def chunk(self, chunk: int, latent: Tensor) -> None:
        """A finished chunk `(B, C, f, h, w)`, in the model's own scale."""

    def state(self, state: RunState) -> None:
        """What going on needs, after rows in which chunks finish."""

    def end(self, trace: Trace) -> None:
        """After the run, however it ended."""


class Frames:
    """Decodes every finished chunk. Frames are held as 8-bit numbers, a quarter of what the host's images take."""

    def __init__(self, vae: Any, model: Any) -> None:
        self._stream, self._model = VaeStream(vae, model), model
        self._parts: list[Tensor] = []

    def chunk(self, latent: Tensor) -> None:
        self._add(self._stream.push(self._model.model.process_latent_out(latent)))

    def _add(self, frames: Tensor | None) -> None:
        if frames is not None:
            self._parts.append(frames.mul(255).round_().to(torch.uint8).cpu())

    def images(self) -> Tensor:
        """`(B * T, H, W, 3)` in 0..1, as the host's images are."""
        self._add(self._stream.finish())
        return torch.cat(self._parts, dim=1).flatten(0, 1).float() / 255

    def close(self) -> None:
        self._stream.close()
        self._parts.clear()


class Collector(Listener):
    """Keeps the trace, and with a vae the frames, for the node that asked. words: told how far it is."""

    def __init__(self, frames: Frames | None = None, words: Callable[[str], None] | None = None) -> None:
        self.frames, self.words, self.trace = frames, words, None

    def begin(self, run: "ChunkedRun") -> None:
        """The chunks that a video begins with are part of it, and come first."""
        for chunk in range(run.plan.prefix_chunks):
            self.chunk(chunk, run.generation.video.chunk(chunk))

    def chunk(self, chunk: int, latent: Tensor) -> None:
        if self.frames is not None:
            self.frames.chunk(latent)

    def end(self, trace: Trace) -> None:
        self.trace = trace
