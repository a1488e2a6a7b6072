"""A video longer than the model's window, made window by window: a run each, begun with what the one before ended with.

Pixels of the overlap go through the host's VAE once more, as the models' authors do it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.model_management import intermediate_device
from torch import Tensor

from ...flowcache_core.plan import ChunkPlan, Window
from ...flowcache_core.profiles import Profile
from ...flowcache_core.sampling.record import VideoRecord
from ...flowcache_core.trace import Trace
from .keeping import Place
from .listening import Collector
from .run import ChunkedRun, ChunkRequest, build_plan, check_start, chunk_frames_of, given_frames, split
from .window_frames import WindowFrames
from .window_keeping import KeptVideo, WindowKeeper, request_facts
from .windows import first_chunks, part_of


@dataclass(frozen=True)
class Part:
    """A window's share of the video: its run and what listens to it. frames: of the video's noise and latent."""

    request: ChunkRequest
    frames: slice
    listener: Collector


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
        part = part_of(self._request, self._first, number, prefix)
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
