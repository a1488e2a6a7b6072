"""Runs a request into a folder: the part that `generate` and `demo` share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..backbones.backbone import Backbone
from ..protocols import Codec, TextEncoder
from ..report import trace_picture
from ..sampling import RunRequest
from ..trace import Trace
from ..video import VideoWriter, write_png
from .output import SCALE, ChunkSink
from .progress import ProgressLine


@dataclass(frozen=True)
class Models:
    """What makes a video: network, codec, text encoder."""

    backbone: Backbone
    codec: Codec
    encoder: TextEncoder


@dataclass(frozen=True)
class Made:
    """A finished run. frames: uint8 `(T, H, W, 3)`, where they were to be kept."""

    trace: Trace
    video: Path
    report: Path
    frames: np.ndarray | None


def load_models(path: Path | None) -> Models:
    """The bundled model, with another transformer of the same layout where `path` names one."""
    from ..demo.bundle import TRANSFORMER, load_codec, load_transformer
    from ..demo.text import DemoTextEncoder

    return Models(load_transformer(path or TRANSFORMER), load_codec(), DemoTextEncoder())


def execute(request: RunRequest, models: Models, folder: Path, label: str, keep: bool = False) -> Made:
    """Samples; writes chunks, `video.mp4`, `trace.json` and `report.png` into `folder`.

    An interrupt leaves the finished chunks and the video so far, and says where in its message.
    """
    run = request.generation(models.backbone, models.encoder)
    progress = ProgressLine(label)
    with VideoWriter(folder / "video.mp4", request.rate, SCALE) as video:
        sink = ChunkSink(folder, models.codec, video, keep)
        try:
            run.run(progress, sink)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(str(sink)) from None
        finally:
            progress.end()
    run.trace.save(folder / "trace.json")
    write_png(folder / "report.png", trace_picture(run.trace))
    return Made(run.trace, folder / "video.mp4", folder / "report.png", sink.frames() if keep else None)
