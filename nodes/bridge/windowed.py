"""A video longer than the model's window, made window by window: a run each, begun with what the one before ended with.

Pixels of the overlap go through the host's VAE once more, as the models' authors do it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...flowcache_core.plan import ChunkPlan, Window
from ...flowcache_core.profiles import Profile
from ...flowcache_core.sampling import profile_windows
from ...flowcache_core.sampling.record import joined_trace
from ...flowcache_core.sampling.stitching import Stitcher
from ...flowcache_core.trace import PassRecord, Trace
from .listening import Collector, Frames
from .run import AS_PROFILED, ChunkedRun, ChunkRequest, given_frames, split
from .vae_stream import VaeStream


@dataclass(frozen=True)
class Part:
    """A window's share of the video: its run and what listens to it. frames: of the video's noise and latent."""

    request: ChunkRequest
    frames: slice
    listener: Collector


def windows_of(profile: Profile, order: str, chunk_frames: int, frames: int) -> tuple[Window, ...]:
    """Windows of a video of so many latent frames; one where the model sees it whole, or an order was chosen."""
    if order != AS_PROFILED:
        return (Window(0, frames, 0),)
    return profile_windows(profile, frames, chunk_frames or profile.chunk_frames)


def first_chunks(profile: Profile, chunk_frames: int, windows: Sequence[Window]) -> list[int]:
    """The number in the video of each window's first chunk, and last how many chunks the video has."""
    size, first = chunk_frames or profile.chunk_frames, [0]
    for window, after in zip(windows, [*windows[1:], Window(0, 0, 0)], strict=True):
        first.append(first[-1] + len(split(profile, chunk_frames, window.frames)) - after.prefix // size)
    return first


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


class WindowCollector(Collector):
    """Keeps a window's plan, too."""

    plan: ChunkPlan

    def begin(self, run: ChunkedRun) -> None:
        self.plan = run.plan
        super().begin(run)


def run_windows(windows: Sequence[Window], profile: Profile, request: ChunkRequest, frames: WindowFrames, model: Any,
                words: Callable[[str], None] | None, sample: Callable[[Part], Tensor]) -> tuple[Tensor, Trace]:
    """Latents of the video, as the host scales them, and the record of all windows.

    sample: samples a part and returns its latents, as the host scales them, what it was given included.
    """
    first, made, plans = first_chunks(profile, request.chunk_frames, windows), [], []
    passes: list[PassRecord] = []
    peak, prefix = 0, None
    for number, window in enumerate(windows):
        part_request = _part(request, first, number, prefix)
        own = len(split(profile, request.chunk_frames, window.frames))
        part_request = replace(part_request, prompts={c: p for c, p in part_request.prompts.items() if c < own})
        frames.window(number, given_frames(profile, part_request))
        told = words and (lambda text, n=number: words(f"window {n + 1} of {len(windows)}: {text}"))
        listener = WindowCollector(frames, told)
        samples = sample(Part(part_request, slice(window.start, window.stop), listener))
        rows, trace = sum(len(plan.rows) for plan in plans), listener.trace
        plans.append(listener.plan)
        passes += [replace(p, row=p.row + rows) for p in trace.passes]
        peak = max(peak, trace.kv_peak_bytes)
        made.append(samples[:, :, window.prefix:])
        if number + 1 < len(windows):
            last = model.model.process_latent_in(samples[:, :, -windows[number + 1].prefix:])
            with torch.inference_mode():
                prefix = model.model.process_latent_out(frames.stitcher.prefix(last))
    return torch.cat(made, dim=2), joined_trace(trace, windows, plans, passes, peak)


def _part(request: ChunkRequest, first: Sequence[int], number: int, prefix: Tensor | None) -> ChunkRequest:
    """What is asked of one window: the beginning of the first, the end of the last, and the prompts of its chunks."""
    prompts = {}
    for chunk, prompt in sorted(request.prompts.items()):
        prompts[max(0, chunk - first[number])] = prompt   # of those before it, the last one goes on
    made = replace(request, prompts=prompts, first_chunk=first[number], video_chunks=first[-1],
                   end_image=request.end_image if number == len(first) - 2 else None)
    return made if number == 0 else replace(made, prefix=prefix, start_image=None)
