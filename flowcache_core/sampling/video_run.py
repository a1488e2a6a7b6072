"""A video of any length: one run a window, each begun with what the one before ended with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..backbones.backbone import Backbone
from ..generation import Generation, Given, Progress
from ..plan import ChunkPlan
from ..protocols import Codec, TextEncoder
from ..run_state import RunState
from ..trace import PassRecord, Trace
from .behind import Behind, behind, replayed
from .checks import check_window
from .record import joined_trace
from .request import at_rate, embed_prompts
from .stitching import Stitcher
from .video_request import VideoRequest
from .window_state import narrowed, widened

OnProgress = Callable[[Progress], None]
OnChunk = Callable[[int, Tensor], None]
OnFrames = Callable[[Tensor], None]
OnState = Callable[[RunState], None]


def shower(on_frames: OnFrames | None) -> Callable[[Tensor | None], None]:
    """Hands pixels on, where there are any."""
    def show(pixels: Tensor | None) -> None:
        if on_frames is not None and pixels is not None and pixels.shape[2]:
            on_frames(pixels)
    return show


class VideoRun:
    """Runs a request once. Checked when it is made, before anything is sampled; raises ValueError.

    codec: encodes what is given and the overlap of windows, and decodes for `on_frames`; None where latents are all
    that is wanted of one window.
    """

    def __init__(self, request: VideoRequest, backbone: Backbone, encoder: TextEncoder,
                 codec: Codec | None = None) -> None:
        self.request, self.codec = request, codec
        if codec is None and len(request.windows) > 1:
            raise ValueError(f"{len(request.windows)} windows without a VAE: the overlap is encoded anew from pixels; "
                             "give a VAE, a shorter video, or the schedule rolling")
        self._backbone = at_rate(backbone, request.run.rate)
        self._plans = [request.plan(n) for n in range(len(request.windows))]
        for number, plan in enumerate(self._plans):
            check_window(plan, request.window_run(number, Given()).settings(), backbone, first=number == 0)
        self._embed = embed_prompts(self._backbone, encoder,
                                    replace(request.run, prompts=request.prompts).spoken(self._backbone))
        self._passes: list[PassRecord] = []
        self._notes: list[str] = []        # of the windows before
        self._latents: list[Tensor] = []
        self._resumed: list[Tensor] = []   # of the window at hand
        self._behind: Behind | None = None
        self._kv_peak, self._again = 0, False
        self._begin(0, request.opening(codec))

    def _begin(self, number: int, given: Given, made: Sequence[Tensor] = ()) -> None:
        """made: latents of the window's next chunks, which are finished."""
        self._number = number
        self._given = replace(given, end=self.request.ending(number, self.codec))
        run = behind(self.request.window_run(number, self._given), made)
        self._plans[number], self._made = run.plan, len(made)
        self._run: Generation = run.embedded(self._backbone, self._embed)
        self._kv_peak = max(self._kv_peak, self._run.trace.kv_peak_bytes)

    @property
    def trace(self) -> Trace:
        """The record of all windows, rows and chunks numbered through."""
        if len(self._plans) == 1 and not self._passes:
            return self._run.trace
        made = joined_trace(self._run.trace, self.request.windows, self._plans, [*self._passes, *self._numbered()],
                            self._kv_peak)
        return replace(made, notes=list(dict.fromkeys([*self._notes, *made.notes])))

    def _numbered(self) -> list[PassRecord]:
        before = sum(len(plan.rows) for plan in self._plans[:self._number])
        return [replace(p, row=p.row + before) for p in self._run.trace.passes]

    def run(self, on_progress: OnProgress | None = None, on_chunk: OnChunk | None = None,
            on_frames: OnFrames | None = None, on_state: OnState | None = None, replay: bool = False) -> Tensor:
        """Latents `(items, C, F, h, w)` of the chunks of the finished video, each once.

        on_chunk: as of `Generation.run`, also for given chunks at the start; on_frames(pixels) gets the pixels
        `(items, 3, T, H, W)` in order as chunks finish; on_state(state) as of `Generation.run`, for `restore`. replay:
        after `restore`, pixels of what was finished are made again and come first. All caches are freed at the end.
        """
        wanted = on_frames is not None or len(self._plans) > 1
        if wanted and self.codec is None:
            raise ValueError("pixels without a VAE: give one, or take the latents")
        limit, replay = self.request.pixel_frames, replay or self._behind is not None
        if limit is not None and not replay:
            limit = max(0, limit - self.request.shown_before(self._number))
        stitcher = Stitcher(self.codec, self.request.overlap, limit) if wanted else None
        self._again = replay
        try:
            if replay:
                with torch.inference_mode():
                    self._rejoin(stitcher, on_frames)
            while True:
                self._window(stitcher, on_progress, on_chunk, on_frames, on_state)
                if self._number + 1 == len(self._plans):
                    return torch.cat(self._latents, dim=2)
                self._next(stitcher)
        finally:
            self._run.close()

    def _window(self, stitcher: Stitcher | None, on_progress: OnProgress | None, on_chunk: OnChunk | None,
                on_frames: OnFrames | None, on_state: OnState | None) -> None:
        show = shower(on_frames)

        def finish(chunk: int, latent: Tensor) -> None:
            self._latents.append(latent.clone())
            if on_chunk is not None:
                on_chunk(chunk, latent)
            if stitcher is not None:
                show(stitcher.push(latent))

        with torch.inference_mode():
            self._open(stitcher, show, on_chunk)
        self._run.run(on_progress and self._counted(on_progress), finish,
                      on_state and (lambda state: on_state(self._whole(state))))

    def is_last(self, state: RunState) -> bool:
        """Whether nothing is left to be done after a state that this run wrote."""
        return state.video["window"] == len(self._plans) - 1 and state.row == len(self._plans[-1].rows)

    def _whole(self, state: RunState) -> RunState:
        """A window's state as one of the video."""
        first, plan = self.request.first_chunk(self._number), self._plans[self._number]
        before = range(self.request.prefix_chunks(0), first + plan.prefix_chunks)
        return widened(state, self._number, first, before, self._given.prefix, self._made,
                       [*self._passes, *self._numbered()])

    def restore(self, state: RunState, finished: Mapping[int, Tensor]) -> None:
        """Goes on from `state`, made by a run of the same request and model; before `run`.

        finished: the latents of `state.finished`. Pixels that were shown by then are shown again only where `run` is to
        replay them. Raises ValueError where a latent is missing or something does not fit.
        """
        missing = [c for c in state.finished if c not in finished]
        if missing:
            raise ValueError(f"no latent of the finished chunk {missing[0]}: a video goes on from the latents of all "
                             f"{len(state.finished)} finished chunks and its state")
        number, made = state.video["window"], state.video.get("made", 0)
        first, skip = self.request.first_chunk(number), self.request.prefix_chunks(number)
        own = {c - first: finished[c] for c in state.finished if c - first >= skip}
        if number or made:
            self._run.close()
            given = Given(state.video["prefix"]) if number else self._given
            self._begin(number, given, [own[c] for c in range(skip, skip + made)])
        self._resumed = list(own.values())
        self._run.restore(narrowed(state, first, skip + made), own)
        self._passes = list(state.passes)
        self._latents = self._opened([finished[c] for c in state.finished])

    def _opened(self, made: Sequence[Tensor]) -> list[Tensor]:
        """The latents of the video so far, what it was given at the start included."""
        opening = self._given.prefix if self._number == 0 else self.request.opening(self.codec).prefix
        parts = made if opening is None else [opening, *made]
        return [part.to(self._run.video.latents) for part in parts]

    def go_on(self, finished: Sequence[Tensor], state: RunState | None = None, before: ChunkPlan | None = None) -> None:
        """Goes on behind the first chunks of the video, of which only the latents are at hand; before `run`, which
        shows them again.

        finished: of all chunks from the first on, given ones included. state, before: the last state of a shorter video
        whose end these are, and the plan of its last window, so that its keys can be taken over.
        """
        given = self.request.prefix_chunks(0)
        if len(finished) <= given:
            return
        self._latents = self._opened(finished[given:])
        number = self.request.window_of(len(finished))
        own = finished[self.request.first_chunk(number) + self.request.prefix_chunks(number):]
        fits = state is not None and state.video.get("window", 0) == number and not self._plans[number].end_chunks
        self._behind = Behind(own, state if fits else None, before)
        if number:
            self._run.close()
        self._number = number

    def _rejoin(self, stitcher: Stitcher | None, on_frames: OnFrames | None) -> None:
        """Shows the windows before the one at hand; begins this one where it goes on behind finished chunks."""
        given = self._given
        if self._number and stitcher is not None:
            made = torch.cat(self._latents, dim=2)
            given = Given(replayed(self.request, self._number, made, stitcher, shower(on_frames)))
        if self._behind is None:
            return
        self._run.close()
        self._begin(self._number, given, self._behind.made)
        self._resumed = list(self._behind.made)
        self._run.trace.notes += self._behind.keys(self._run, self._number, len(self._plans))

    def _open(self, stitcher: Stitcher | None, show: OnFrames, on_chunk: OnChunk | None) -> None:
        """Shows and hands over what the first window is given; later ones repeat it."""
        given, plan, number = self._given.prefix, self._plans[self._number], self._number
        if stitcher is not None:
            last = number + 1 == len(self._plans)
            shown = stitcher.begin(given, 0 if last else self.request.windows[number + 1].prefix, last, number == 0)
            decoded = [shown, *(stitcher.push(latent.to(self._run.video.latents)) for latent in self._resumed)]
            for pixels in decoded if self._again or not self._resumed else ():
                show(pixels)
        if self._resumed:
            self._resumed = []
            return
        for chunk in plan.chunks[:plan.prefix_chunks] if number == 0 else ():
            latent = given[:, :, chunk.start:chunk.stop]
            self._latents.append(latent.to(self._run.video.latents))
            if on_chunk is not None:
                on_chunk(chunk.index, self._latents[-1])

    def _counted(self, on_progress: OnProgress) -> OnProgress:
        sizes = [sum(map(len, plan.rows)) for plan in self._plans]
        before, total = sum(sizes[:self._number]), sum(sizes)
        return lambda p: on_progress(replace(p, done=p.done + before, total=total))

    def _next(self, stitcher: Stitcher) -> None:
        self._passes += self._numbered()
        self._notes += self._run.trace.notes
        shared = self.request.windows[self._number + 1].prefix
        with torch.inference_mode():
            prefix = stitcher.prefix(self._run.video.result[:, :, -shared:])
        self._begin(self._number + 1, Given(prefix))
