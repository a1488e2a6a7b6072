"""How a video of windows begins in a folder: anew, where an interrupted one stopped, or behind a finished one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..generation import Given
from ..identity import Facts, facts_of, run_facts, weights_fact
from ..run_folder import RunFolder, read_manifest
from ..sampling import VideoRequest, VideoRun
from .begin import Models, load_unfinished, take_over

COMPARED = ("model", "settings", "plan", "windows", "overlap", "sources", "rate")   # of a video that is extended


@dataclass(frozen=True)
class BegunVideo:
    """A run that is ready to go, its folder, whether it shows what is finished once more, and what there is to say."""

    run: VideoRun
    home: RunFolder
    replay: bool = False
    notes: Sequence[str] = ()


def video_facts(request: VideoRequest, weights: str) -> Facts:
    """What decides every bit of the video. weights: their fact."""
    prompts = [*request.prompts, f"negative: {request.run.negative}"]
    settings = request.window_run(0, Given()).settings()
    return {**run_facts(request.plan(0), settings, prompts, weights),
            **facts_of(request.schedule, "schedule"), **facts_of(request.sources, "sources"),
            **facts_of(request.windows, "windows"), "overlap": request.overlap,
            "pixel frames": str(request.pixel_frames), "rate": str(request.run.rate)}


def begin_video(request: VideoRequest, models: Models, folder: Path, words: Sequence[str], keep_state: bool,
                resume: bool, before: VideoRequest | None) -> BegunVideo:
    """before: of the finished video that is extended. Raises ValueError for another run's folder."""
    run, weights = VideoRun(request, models.backbone, models.encoder, models.codec), weights_fact(models.backbone)
    home = RunFolder(folder, video_facts(request, weights), words, request.chunks, keep_state, request.prefix_chunks(0))
    if before is not None:
        return _extended(run, home, models, before, weights)
    if not resume:
        home.start()
        return BegunVideo(run, home)
    home.check()
    return _resumed(run, home, models) if keep_state else _rebuilt(run, home)


def _resumed(run: VideoRun, home: RunFolder, models: Models) -> BegunVideo:
    state, finished, notes = home.load_state(models.backbone.device)
    if state is not None:
        run.restore(state, finished)
    return BegunVideo(run, home, state is not None, notes)


def _rebuilt(run: VideoRun, home: RunFolder) -> BegunVideo:
    finished, notes = load_unfinished(home)
    run.go_on([finished[c] for c in sorted(finished)])
    return BegunVideo(run, home, notes=notes)


def _extended(run: VideoRun, home: RunFolder, models: Models, before: VideoRequest, weights: str) -> BegunVideo:
    said = read_manifest(home.path)["facts"]   # a video of one window may not speak of windows
    facts = {name: fact for name, fact in video_facts(before, weights).items()
             if name in said or (name.startswith("sources.") and fact != "None")}
    state, finished, notes = take_over(home, models, before.chunks, facts, COMPARED)
    run.go_on([finished[c] for c in sorted(finished)], state, before.plan(len(before.windows) - 1))
    return BegunVideo(run, home, notes=notes)
