"""A video of windows in a folder: chunks and states count through the whole video, and any window can go on."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...flowcache_core.identity import Facts, difference, facts_of, said
from ...flowcache_core.plan import Window
from ...flowcache_core.run_folder import RunFolder, read_manifest
from ...flowcache_core.run_state import RunState
from ...flowcache_core.sampling.window_state import narrowed, widened
from ...flowcache_core.trace import PassRecord, Trace
from .keeping import Keeper, Place, facts_of_run, refuse_unfinished
from .listening import Collector

if TYPE_CHECKING:
    from .run import ChunkedRun, ChunkRequest

logger = logging.getLogger(__name__)
OF_A_WINDOW = ("plan", "prompt of chunk", "settings.first_chunk", "settings.noise_rule.noise")


def request_facts(request: "ChunkRequest", windows: Sequence[Window], seed: int, **tensors: Tensor) -> Facts:
    """What of the whole video is asked for, as far as a window's run does not say it."""
    prompts = {chunk: [entry[0] for entry in given] for chunk, given in request.prompts.items()}
    given = {name: getattr(request, name) for name in ("prefix", "start_image", "end_image")}
    return {**facts_of(windows, "windows"), **facts_of(prompts, "prompts"), **facts_of(tensors, "tensors"),
            **facts_of(given, "given"), "schedule": f"{request.plan}, ar_step {request.ar_step}", "seed": str(seed)}


class KeptVideo:
    """What the windows of a video share of its folder. told: `request_facts`; chunks: of the video; opening: those that
    it is given. Raises ValueError for a folder of another video."""

    def __init__(self, place: Place, told: Facts, chunks: int, opening: int) -> None:
        self.name, self.opening, self._told = place.name, opening, told
        self.home = RunFolder(place.path, told, ("ComfyUI",), chunks, given=opening)
        self.before: Facts | None = read_manifest(place.path)["facts"] if place.resume else None
        if self.before is None:
            refuse_unfinished(place.path, place.name)
        else:
            self._compare(told)
        self.begun = False

    def _compare(self, now: Facts) -> None:
        told = difference({name: self.before.get(name, "not there") for name in now}, now)
        if told:
            raise ValueError(f"resume_from {self.name!r} is another run: {told}; set these as they were, or empty "
                             "resume_from")

    def load(self, device: Any) -> tuple[RunState | None, Mapping[int, Tensor], list[str]]:
        """As `RunFolder.load_state`."""
        return (None, {}, []) if self.before is None else self.home.load_state(device)

    def begin(self, run: "ChunkedRun") -> None:
        """Once a session, before the first window that is sampled. Raises ValueError for settings of another run."""
        own = {name: fact for name, fact in facts_of_run(run).items() if not name.startswith(OF_A_WINDOW)}
        self.home.facts = {**self._told, **own, "words": said([[cond["cross_attn"] for cond in group or []]
                                                               for group in run.backbone.guider.conds.values()])}
        if self.before is None:
            self.home.path.mkdir(parents=True, exist_ok=True)
            self.home.start()
        else:
            self._compare(self.home.facts)
        self.begun = True

    def end(self, trace: Trace | None) -> None:
        """trace: of the whole video; None: it was stopped, which is said."""
        if trace is not None:
            trace.save(self.home.path / "trace.json")
        elif self.begun:
            logger.warning("FlowCache: stopped with %d of %d chunks kept in %s; to go on, queue the same graph with "
                           "resume_from set to %s", len(self.home.saved), self.home.chunks, self.home.path, self.name)


class WindowKeeper(Keeper):
    """Keeps one window. number, first: of the window and of its first chunk in the video; last: whether it is the last;
    passes: makes passes of the window those of the video; state: where it goes on; finished: latents of the video's
    finished chunks, as far as no run at hand made them."""

    def __init__(self, video: KeptVideo, number: int, first: int, last: bool, frames: Any,
                 words: Callable[[str], None] | None, passes: Callable[[Sequence[PassRecord]], Sequence[PassRecord]],
                 state: RunState | None, finished: Mapping[int, Tensor]) -> None:
        super().__init__(video.home.path, video.name, state is not None, frames, words)
        self._video, self._number, self._first, self._last = video, number, first, last
        self._passes, self._state, self._finished = passes, state, finished
        self._home = video.home

    def begin(self, run: "ChunkedRun") -> None:
        self.plan, self._rows = run.plan, len(run.plan.rows)
        latents, given = run.generation.video, range(run.plan.prefix_chunks)
        if not self._video.begun:
            self._video.begin(run)
            if self._state is None:
                self._save_opening(run)
        for chunk in given:
            Collector.chunk(self, chunk, latents.chunk(chunk))
        if self._state is not None:
            own = {c - self._first: latent for c, latent in self._finished.items()}
            run.generation.restore(narrowed(self._state, self._first, len(given)), own)
            for chunk in sorted(c for c in own if c >= len(given)):
                Collector.chunk(self, chunk, own[chunk].to(run.backbone.device))

    def _save_opening(self, run: "ChunkedRun") -> None:
        for chunk in range(self._video.opening):
            known = chunk in self._finished
            self._home.save_chunk(chunk, self._finished[chunk] if known else run.generation.video.chunk(chunk))

    def state(self, state: RunState) -> None:
        begun = range(self._video.opening, self._first + self.plan.prefix_chunks)
        whole = widened(state, self._number, self._first, begun, None, 0, self._passes(state.passes))
        self._home.save_state(whole, self._last and state.row == self._rows)
        finished, self._undecoded = self._undecoded, []
        for chunk, latent in finished:
            Collector.chunk(self, chunk, latent)

    def end(self, trace: Trace) -> None:
        Collector.end(self, trace)
        self._undecoded.clear()
