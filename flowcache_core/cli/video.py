"""Runs a video of windows, or one that starts from given frames, into a folder; or the rest of one."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..report import trace_picture
from ..run_folder import RunFolder
from ..sampling import VideoRequest, advice
from ..video import write_png
from .execute import Made, Models, models_for
from .generate import LATENTS_ONLY, cost_words, no_effect
from .output import open_video, to_frames
from .progress import ProgressLine
from .source_options import build_video
from .video_begin import BegunVideo, begin_video


def execute_video(request: VideoRequest, models: Models, begun: BegunVideo) -> Made:
    """As `execute`: an interrupt leaves finished chunks, the state and the video so far, and says where."""
    run, home = begun.run, begun.home
    width = (request.run.latent or request.run.profile.latent)[1]
    progress, folder = ProgressLine("generate"), home.path
    ends = [request.shown_before(n) for n in range(1, len(request.windows))]
    with open_video(folder, request.run.rate, width, models.codec, ends) as video:
        kept = video.kept() if ends else 0
        if ends:
            video.begin(run.shown_from(kept))

        def show(pixels: Tensor) -> None:
            video.append(to_frames(pixels))

        try:
            run.run(progress, home.save_chunk, show if video else None,
                    lambda state: home.save_state(state, run.is_last(state)), begun.replay, kept)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(kept_words(home)) from None
        finally:
            progress.end()
    trace = run.trace
    trace.notes = [*begun.notes, *trace.notes]
    trace.save(folder / "trace.json")
    write_png(folder / "report.png", trace_picture(trace))
    return Made(trace, folder / "video.mp4" if models.codec else None, folder / "report.png", None)


def kept_words(home: RunFolder) -> str:
    """Where an interrupted video stands."""
    if home.takes_over:
        return f"no chunk was added to the video in {home.path}"
    count = len(home.saved)
    return (f"{count} finished chunk{'s' * (count > 1)} kept in {home.path}; go on with --resume {home.path}" if count
            else "no chunk was finished")


def run_video(args: argparse.Namespace, words: Sequence[str], folder: Path,
              began: argparse.Namespace | None) -> dict[str, Any]:
    """A video of several windows, or one that starts from given frames. began: of the finished one that it extends."""
    request, before = build_video(args), build_video(began) if began else None
    models = models_for(args, request.run.profile, request.schedule.steps)
    begun = begin_video(request, models, folder, words, args.state == "disk", args.resume is not None, before)
    made, home = execute_video(request, models, begun), begun.home
    summary = made.trace.summary()
    windows = [[w.start, w.frames, w.prefix] for w in request.windows]
    print(f"{request.chunks} chunks in {len(windows)} window{'s' * (len(windows) > 1)}, {summary['seconds']:.1f} s; "
          f"computed {summary['computed']} of {summary['chunk_steps']} chunk steps; KV peak "
          f"{summary['kv_peak_bytes'] / 1e6:.1f} MB; run state {home.state_bytes / 1e6:.1f} MB; "
          f"{made.video or LATENTS_ONLY.format(folder)}")
    said = [request.run.note, *advised(request), *made.trace.notes]
    print(cost_words(made.trace), *(f"{line}\n" for line in said if line), no_effect(made.trace), sep="", end="")
    return {**summary, "windows": windows, "video": made.video and str(made.video), "trace": str(folder / "trace.json"),
            "report": str(made.report), "state_bytes": home.state_bytes}


def advised(request: VideoRequest) -> list[str]:
    plans = [request.plan(n) for n in range(len(request.windows))]
    return advice(request.run.profile, plans, request.run.policy, request.schedule.base_chunks is not None)
