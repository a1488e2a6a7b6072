"""Runs a video of windows, or one that starts from given frames, into a folder."""

import argparse
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..report import trace_picture
from ..sampling import VideoRequest, VideoRun, advice
from ..video import VideoWriter, write_png
from .execute import Made, Models, models_for
from .generate import LATENTS_ONLY, cost_words, no_effect
from .output import open_video, prepare_folder, to_frames
from .progress import ProgressLine
from .source_options import build_video


class VideoFolder:
    """Finished chunks at once and whole, and the video as it grows."""

    def __init__(self, folder: Path, video: VideoWriter | None) -> None:
        self.folder, self._video, self.saved = folder, video, 0

    def chunk(self, chunk: int, latent: Tensor) -> None:
        path = self.folder / f"chunk-{chunk:04d}.safetensors"
        partial = path.with_name(path.name + ".partial")
        save_file({"latent": latent.contiguous().cpu()}, partial)
        partial.replace(path)
        self.saved += 1

    def frames(self, pixels: Tensor) -> None:
        self._video.append(to_frames(pixels))

    def __str__(self) -> str:
        if not self.saved:
            return "no chunk was finished"
        return f"{self.saved} finished chunk{'s' * (self.saved > 1)} kept in {self.folder}"


def execute_video(request: VideoRequest, models: Models, folder: Path, label: str) -> Made:
    """As `execute`, without a run state: an interrupt leaves finished chunks and the video so far, and says where."""
    run = VideoRun(request, models.backbone, models.encoder, models.codec)
    width = (request.run.latent or request.run.profile.latent)[1]
    progress = ProgressLine(label)
    with open_video(folder, request.run.rate, width, models.codec) as video:
        home = VideoFolder(folder, video)
        try:
            run.run(progress, home.chunk, home.frames if video else None)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(str(home)) from None
        finally:
            progress.end()
    trace = run.trace
    trace.save(folder / "trace.json")
    write_png(folder / "report.png", trace_picture(trace))
    return Made(trace, folder / "video.mp4" if models.codec else None, folder / "report.png", None)


def run_video(args: argparse.Namespace) -> dict[str, Any]:
    """A video of several windows, or one that starts from given frames."""
    request = build_video(args)
    models = models_for(args, request.run.profile, request.schedule.steps)
    made = execute_video(request, models, prepare_folder(args.out), "generate")
    summary = made.trace.summary()
    windows = [[w.start, w.frames, w.prefix] for w in request.windows]
    print(f"{request.chunks} chunks in {len(windows)} window{'s' * (len(windows) > 1)}, {summary['seconds']:.1f} s; "
          f"computed {summary['computed']} of {summary['chunk_steps']} chunk steps; KV peak "
          f"{summary['kv_peak_bytes'] / 1e6:.1f} MB; {made.video or LATENTS_ONLY.format(args.out)}")
    said = [request.run.note, *advised(request)]
    print(cost_words(made.trace), *(f"{line}\n" for line in said if line), no_effect(made.trace), sep="", end="")
    return {**summary, "windows": windows, "video": made.video and str(made.video),
            "trace": str(args.out / "trace.json"), "report": str(made.report)}


def advised(request: VideoRequest) -> list[str]:
    plans = [request.plan(n) for n in range(len(request.windows))]
    return advice(request.run.profile, plans, request.run.policy, request.schedule.base_chunks is not None)
