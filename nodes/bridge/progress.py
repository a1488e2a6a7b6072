"""What a user sees while chunks are denoised: one bar over all passes, the current chunk as preview, time to go."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor
from tqdm import tqdm

from ...flowcache_core.generation import Progress

if TYPE_CHECKING:
    from .run import ChunkedRun


PREVIEW_SHARE = 0.015   # of the run's time, at most, that is spent on previews


def remaining(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    return f"{minutes}:{seconds:02d}"


class ProgressBar:
    """Called after every pass. callback: the host's, `(step, x0, x, total)`, which makes a preview of what it is given,
    and so is left out where passes are too short for that; words: told `chunk 2/7, step 12/50, 1:23 left`."""

    def __init__(self, run: "ChunkedRun", callback: Callable | None, silent: bool,
                 words: Callable[[str], None] | None = None) -> None:
        self._run, self._callback, self._words = run, callback, words
        self._bar = tqdm(total=sum(1 for _ in run.plan.passes()), disable=silent, desc="FlowCache")
        self._begin, self._done, self._total = time.perf_counter(), 0, self._bar.total
        self._showing = 0.0   # seconds spent in the callback

    def __call__(self, progress: Progress) -> None:
        p, plan = progress.last, self._run.plan
        self._done += 1
        text = f"chunk {p.chunks[-1] + 1}/{len(plan.chunks)}"
        if p.moves:
            text += f", step {p.moves[-1][1] + 1}/{plan.steps_of(p.moves[-1][0])}"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(1)
        seconds = time.perf_counter() - self._begin
        if self._words is not None:
            self._words(f"{text}, {remaining(seconds / self._done * (progress.total - progress.done))} left")
        if self._callback is not None and self._showing <= PREVIEW_SHARE * seconds:
            self._show(progress)

    def _show(self, progress: Progress) -> None:
        clean = self._run.backbone.last
        if clean is not None:
            begin, chunk = time.perf_counter(), progress.last.chunks[0]
            self._callback(progress.done - 1, clean, self._run.generation.video.chunk(chunk), progress.total)
            self._showing += time.perf_counter() - begin

    def finish(self, samples: Tensor) -> None:
        """The last call shows the whole video: hosts hand it on as the denoised output."""
        if self._callback is not None:
            self._callback(self._total - 1, samples, samples, self._total)

    def close(self) -> None:
        self._bar.close()
