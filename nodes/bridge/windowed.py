"""A video longer than the model's window, made window by window: a run each, begun with what the one before ended with.

Pixels of the overlap go through the host's VAE once more, as the models' authors do it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.model_management import intermediate_device
from torch import Tensor

from ...flowcache_core.plan import ChunkPlan, Window
from ...flowcache_core.profiles import Profile
from ...flowcache_core.sampling import profile_windows
from ...flowcache_core.sampling.record import VideoRecord
from ...flowcache_core.sampling.stitching import Stitcher
from ...flowcache_core.trace import Trace
from .keeping import Place
from .listening import Collector, Frames
from .run import (
    AS_PROFILED,
    ChunkedRun,
    ChunkRequest,
    build_plan,
    check_start,
    chunk_frames_of,
    given_frames,
    split,
)
from .vae_stream import VaeStream
from .window_keeping import KeptVideo, WindowKeeper, request_facts


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


def with_overlap(profile: Profile, order: str, pixel_frames: int) -> Profile:
    """The profile with so many pixel frames that a window repeats; 0 is its own. Raises ValueError."""
    if not pixel_frames:
        return profile
    if (pixel_frames - 1) % 4:
        near = pixel_frames - (pixel_frames - 1) % 4
        raise ValueError(f"overlap {pixel_frames}: expected 4n + 1 pixel frames; set {near} or {near + 4}")
    if order != AS_PROFILED or profile.base_frames is None:
        why = f"{profile.title}, which sees all of it" if profile.base_frames is None else f"schedule {order}"
        raise ValueError(f"overlap {pixel_frames} with {why}: the video is made in one window, so nothing is repeated; "
                         "set overlap to 0")
    return replace(profile, overlap_pixel_frames=pixel_frames)


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


class WindowedRun:
    """Makes a video window by window. steps: of a chunk; kept: the folder that it is kept in. Raises ValueError for a
    beginning that does not fit, or a folder of another video."""

    def __init__(self, windows: Sequence[Window], profile: Profile, request: ChunkRequest, frames: WindowFrames,
                 model: Any, steps: int, kept: KeptVideo | None = None,
                 words: Callable[[str], None] | None = None) -> None:
        self._windows, self._profile, self._request, self._frames = windows, profile, request, frames
        self._model, self._steps, self._kept, self._words = model, steps, kept, words
        self._first = first_chunks(profile, request.chunk_frames, windows)
        chunk, given = chunk_frames_of(profile, request.chunk_frames), given_frames(profile, request)
        check_start(given, windows[-1].stop, chunk)
        self._opened = self._window_of(given // chunk)
        self._state, self._finished, notes = (None, {}, []) if kept is None else kept.load(model.load_device)
        if self._state is None and request.prefix is not None:
            parts = model.model.process_latent_in(request.prefix).split(chunk, dim=2)
            self._finished = dict(enumerate(parts))
        self._start = self._opened if self._state is None else self._state.video["window"]
        self._record = VideoRecord(windows)
        self._record.passes, self._record.notes = [] if self._state is None else list(self._state.passes), list(notes)

    def _window_of(self, chunk: int) -> int:
        """The window that makes a chunk of the video."""
        ends = [self._first[n + 1] + w.prefix // chunk_frames_of(self._profile, self._request.chunk_frames)
                for n, w in enumerate((*self._windows[1:], Window(0, 0, 0)))]
        return next(n for n, end in enumerate(ends) if chunk < end)

    def run(self, sample: Callable[[Part], Tensor]) -> tuple[Tensor, Trace]:
        """Latents of the video, as the host scales them, and the record of all windows.

        sample: samples a part and returns its latents, as the host scales them, what it was given included.
        """
        trace = None
        try:
            latents, trace = self._made(sample)
            return latents, trace
        finally:
            if self._kept is not None:
                self._kept.end(trace)

    def _made(self, sample: Callable[[Part], Tensor]) -> tuple[Tensor, Trace]:
        made, prefix, trace = [], None, None
        for number, window in enumerate(self._windows):
            part = self._asked(number, prefix)
            if number < self._start:
                self._record.plans.append(build_plan(self._profile, part, window.frames, self._steps))
                samples = self._shown(number, prefix)
            else:
                samples, trace = self._sampled(number, part, sample)
            made.append(samples[:, :, window.prefix:])
            if number + 1 < len(self._windows):
                last = self._model.model.process_latent_in(samples[:, :, -self._windows[number + 1].prefix:])
                with torch.inference_mode():
                    prefix = self._model.model.process_latent_out(self._frames.stitcher.prefix(last))
        return torch.cat(made, dim=2), self._record.whole(len(self._windows) - 1, trace)

    def _asked(self, number: int, prefix: Tensor | None) -> ChunkRequest:
        """A window's share of what is asked for; what the video was given lies behind the window's own beginning."""
        window, given = self._windows[number], self._request.prefix
        if given is not None and number == self._opened and number:
            rest = given[:, :, window.start + window.prefix:]
            prefix = torch.cat([prefix, rest.to(prefix)], dim=2)
        elif given is not None and number < self._opened and not number:
            given = given[:, :, :window.frames - chunk_frames_of(self._profile, self._request.chunk_frames)]
        part = _part(self._request, self._first, number, prefix)
        part = part if number else replace(part, prefix=given)
        own = len(split(self._profile, self._request.chunk_frames, window.frames))
        return replace(part, prompts={c: p for c, p in part.prompts.items() if c < own})

    def _shown(self, number: int, prefix: Tensor | None) -> Tensor:
        """A finished window once more: its frames are decoded, and nothing is sampled."""
        window, scaled = self._windows[number], self._model.model
        known = torch.cat([self._finished[c] for c in sorted(self._finished)], dim=2)
        new = known[:, :, window.start + window.prefix:window.stop].float().to(intermediate_device())
        given = [] if prefix is None else [scaled.process_latent_in(prefix)]
        self._frames.window(number, window.prefix if number else 0)
        with torch.inference_mode():
            for latent in (*given, new):
                self._frames.chunk(latent)
            return scaled.process_latent_out(torch.cat([*given, new], dim=2))

    def _sampled(self, number: int, part: ChunkRequest, sample: Callable[[Part], Tensor]) -> tuple[Tensor, Trace]:
        window, words, count = self._windows[number], self._words, len(self._windows)
        self._frames.window(number, window.prefix if number else given_frames(self._profile, part))
        told = words and (lambda text: words(f"window {number + 1} of {count}: {text}"))
        listener = WindowCollector(self._frames, told) if self._kept is None else WindowKeeper(
            self._kept, number, self._first[number], number + 1 == count, self._frames, told,
            lambda passes: self._record.so_far(number, passes),
            self._state if number == self._start else None, self._finished)
        samples = sample(Part(part, slice(window.start, window.stop), listener))
        self._record.plans.append(listener.plan)
        if number + 1 < count:
            self._record.end(number, listener.trace)
        return samples, listener.trace


def kept_video(place: Place | None, profile: Profile, request: ChunkRequest, windows: Sequence[Window], seed: int,
               **tensors: Tensor) -> KeptVideo | None:
    """The folder of a video; None where it has no place. tensors: what the sampler is handed. Raises ValueError for a
    folder of another video."""
    if place is None:
        return None
    opening = given_frames(profile, request) // chunk_frames_of(profile, request.chunk_frames)
    chunks = first_chunks(profile, request.chunk_frames, windows)[-1]
    return KeptVideo(place, request_facts(request, windows, seed, **tensors), chunks, opening)


def window_requests(profile: Profile, request: ChunkRequest, windows: Sequence[Window]) -> list[ChunkRequest]:
    """What every window is asked for, as far as plans go: what later ones begin with is of the right length alone."""
    first = first_chunks(profile, request.chunk_frames, windows)
    return [_part(request, first, n, torch.zeros(1, 1, window.prefix, 1, 1)) for n, window in enumerate(windows)]


def _part(request: ChunkRequest, first: Sequence[int], number: int, prefix: Tensor | None) -> ChunkRequest:
    """What is asked of one window: the beginning of the first, the end of the last, and the prompts of its chunks."""
    prompts = {}
    for chunk, prompt in sorted(request.prompts.items()):
        prompts[max(0, chunk - first[number])] = prompt   # of those before it, the last one goes on
    made = replace(request, prompts=prompts, first_chunk=first[number], video_chunks=first[-1],
                   end_image=request.end_image if number == len(first) - 2 else None)
    return made if number == 0 else replace(made, prefix=prefix, start_image=None)
