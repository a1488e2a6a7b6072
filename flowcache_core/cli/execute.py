"""Runs a request into a folder: the part that `generate` and `demo` share."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..profiles import Profile
from ..report import trace_picture
from ..sampling import RunRequest
from ..trace import Trace
from ..video import write_png
from .begin import Begun, Models, new_run
from .model_options import codec_for, load_backbone, load_text
from .output import ChunkSink, open_video
from .progress import ProgressLine


@dataclass(frozen=True)
class Made:
    """A finished run. frames: uint8 `(T, H, W, 3)`, where they were to be kept."""

    trace: Trace
    video: Path | None
    report: Path
    frames: np.ndarray | None


def load_models(path: Path | None) -> Models:
    """The bundled model, with another transformer of the same layout where `path` names one."""
    from ..demo.bundle import TRANSFORMER, load_codec, load_transformer
    from ..demo.text import DemoTextEncoder

    return Models(load_transformer(path or TRANSFORMER), load_codec(), DemoTextEncoder())


def models_for(args: argparse.Namespace, profile: Profile, steps: int, needs_codec: bool = False) -> Models:
    """What the options name, for a run of `steps`. Raises ValueError where files, profile and options do not fit."""
    backbone = load_backbone(args, profile, steps)
    encoder, codec = load_text(args, profile, backbone), codec_for(args, profile)
    if codec is None and needs_codec:
        raise ValueError(f"{args.verb} with profile {profile.name}: frames are compared, so a codec is needed; give it "
                         "with --vae")
    return Models(backbone, codec, encoder)


def execute(request: RunRequest, models: Models, folder: Path, label: str, keep: bool = False,
            begun: Begun | None = None) -> Made:
    """Samples; writes chunks, `video.mp4`, `trace.json` and `report.png` into `folder`.

    begun: a run with its folder, where it is not simply a new one that keeps no state. An interrupt leaves the finished
    chunks, the state to go on from and the video so far, and says where in its message.
    """
    begun = begun or new_run(request, models, folder, (), keep_state=False)
    run, home, progress = begun.run, begun.home, ProgressLine(label)
    width = (request.latent or request.profile.latent)[1]
    with open_video(folder, request.rate, width, models.codec) as video:
        sink = ChunkSink(home, models.codec, video, keep)
        try:
            for chunk in sorted(begun.finished):
                sink.show(begun.finished[chunk].to(models.backbone.device))
            run.run(progress, sink, lambda state: home.save_state(state, state.row == len(run.plan.rows)))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(str(sink)) from None
        finally:
            progress.end()
    run.trace.save(folder / "trace.json")
    write_png(folder / "report.png", trace_picture(run.trace))
    return Made(run.trace, folder / "video.mp4" if models.codec else None, folder / "report.png",
                sink.frames() if keep else None)
