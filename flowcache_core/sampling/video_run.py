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
from ..trace import Trace
from .behind import Behind, behind
from .checks import check_window
from .record import VideoRecord
from .request import at_rate, embed_prompts
from .showing import OnFrames, Showing
from .video_request import VideoRequest
from .window_state import narrowed, widened

OnProgress = Callable[[Progress], None]
OnChunk = Callable[[int, Tensor], None]
OnState = Callable[[RunState], None]


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
        self._record = VideoRecord(request.windows, [request.plan(n) for n in range(len(request.windows))])
        self._plans = self._record.plans
        for number, plan in enumerate(self._plans):
            check_window(plan, request.window_run(number, Given()).settings(), backbone, first=number == 0)
        self._embed = embed_prompts(self._backbone, encoder,
                                    replace(request.run, prompts=request.prompts).spoken(self._backbone))
        self._latents: list[Tensor] = []
        self._resumed: list[Tensor] = []   # of the window at hand
        self._behind: Behind | None = None
        self._again = False
        self._known: tuple[int, Tensor | None] = (0, None)   # the last window whose prefix is at hand, and that
        self._begin(0, request.opening(codec))

    def _begin(self, number: int, given: Given, made: Sequence[Tensor] = ()) -> None:
        """made: latents of the window's next chunks, which are finished."""
        self._number = number
        self._given = replace(given, end=self.request.ending(number, self.codec))
        run = behind(self.request.window_run(number, self._given), made)
        self._plans[number], self._made = run.plan, len(made)
        self._run: Generation = run.embedded(self._backbone, self._embed)
        self._record.kv_peak_bytes = max(self._record.kv_peak_bytes, self._run.trace.kv_peak_bytes)

    @property
    def trace(self) -> Trace:
        """The record of all windows, rows and chunks numbered through."""
        if len(self._plans) == 1 and not self._record.passes:
            return self._run.trace
        return self._record.whole(self._number, self._run.trace)

    def run(self, on_progress: OnProgress | None = None, on_chunk: OnChunk | None = None,
            on_frames: OnFrames | None = None, on_state: OnState | None = None, replay: bool = False,
            kept: int = 0) -> Tensor:
        """Latents `(items, C, F, h, w)` of the chunks of the finished video, each once.

        on_chunk: as of `Generation.run`, also for given chunks at the start; on_frames(pixels) gets the pixels
        `(items, 3, T, H, W)` in order as chunks finish; on_state(state) as of `Generation.run`, for `restore`. replay:
        after `restore`, pixels of what was finished are made again and come first; they begin with window
        `shown_from(kept)`, where those of the first `kept` windows are wanted no more. All caches are freed at the end.
        """
        wanted = on_frames is not None or len(self._plans) > 1
        if wanted and self.codec is None:
            raise ValueError("pixels without a VAE: give one, or take the latents")
        self._again = replay or self._behind is not None
        first = self.shown_from(kept) if self._again else self._number
        showing = Showing(self.request, self.codec if wanted else None, on_frames, first)
        try:
            if self._again:
                with torch.inference_mode():
                    self._rejoin(showing, first)
            while True:
                self._window(showing, on_progress, on_chunk, on_state)
                if self._number + 1 == len(self._plans):
                    return torch.cat(self._latents, dim=2)
                self._next(showing)
        finally:
            self._run.close()

    def _window(self, showing: Showing, on_progress: OnProgress | None, on_chunk: OnChunk | None,
                on_state: OnState | None) -> None:
        def finish(chunk: int, latent: Tensor) -> None:
            self._latents.append(latent.clone())
            if on_chunk is not None:
                on_chunk(chunk, latent)
            showing.push(latent)

        with torch.inference_mode():
            self._open(showing, on_chunk)
        self._run.run(on_progress and self._counted(on_progress), finish,
                      on_state and (lambda state: on_state(self._whole(state))))

    def shown_from(self, kept: int) -> int:
        """The window with which pixels that are shown again begin: what the video goes on with needs no earlier one."""
        return self._known[0] if kept >= self._known[0] else 0

    def is_last(self, state: RunState) -> bool:
        """Whether nothing is left to be done after a state that this run wrote."""
        return state.video["window"] == len(self._plans) - 1 and state.row == len(self._plans[-1].rows)

    def _whole(self, state: RunState) -> RunState:
        """A window's state as one of the video."""
        first, plan = self.request.first_chunk(self._number), self._plans[self._number]
        before = range(self.request.prefix_chunks(0), first + plan.prefix_chunks)
        return widened(state, self._number, first, before, self._given.prefix, self._made,
                       self._record.so_far(self._number, self._run.trace.passes))

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
        self._known = (number, state.video["prefix"])
        self._resumed = list(own.values())
        self._run.restore(narrowed(state, first, skip + made), own)
        self._record.passes = list(state.passes)
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
        if state is not None and "prefix" in state.video:
            self._known = (state.video["window"], state.video["prefix"])
        own = finished[self.request.first_chunk(number) + self.request.prefix_chunks(number):]
        fits = state is not None and state.video.get("window", 0) == number and not self._plans[number].end_chunks
        self._behind = Behind(own, state if fits else None, before)
        if number:
            self._run.close()
        self._number = number

    def _rejoin(self, showing: Showing, first: int) -> None:
        """Shows the windows from `first` on; begins the one at hand where it goes on behind finished chunks."""
        given = self._given
        if self._number:
            opening = self._known[1] if first else None
            given = Given(showing.replay(first, self._number, torch.cat(self._latents, dim=2), opening))
        if self._behind is None:
            return
        self._run.close()
        self._begin(self._number, given, self._behind.made)
        self._resumed = list(self._behind.made)
        self._run.trace.notes += self._behind.keys(self._run, self._number, len(self._plans))

    def _open(self, showing: Showing, on_chunk: OnChunk | None) -> None:
        """Shows and hands over what the first window is given; later ones repeat it."""
        given, plan, number = self._given.prefix, self._plans[self._number], self._number
        finished = [latent.to(self._run.video.latents) for latent in self._resumed]
        showing.begin(number, given, finished, quietly=bool(finished) and not self._again)
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

    def _next(self, showing: Showing) -> None:
        self._record.end(self._number, self._run.trace)
        with torch.inference_mode():
            prefix = showing.next_prefix(self._number, self._run.video.result)
        self._begin(self._number + 1, Given(prefix))
