"""What the node Compare Runs does with its inputs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..flowcache_core.metrics import Quality, compare
from ..flowcache_core.report import comparison_table, contact_sheet, side_by_side
from ..flowcache_core.trace import Trace
from .pictures import to_arrays, to_images

LEAST_SIDE = 192   # of a frame in the side-by-side video; smaller ones are enlarged by whole numbers


@dataclass(frozen=True)
class Compared:
    """panels: the videos beside one another with their difference; sheet: frames of both; as the host's images."""

    panels: Tensor
    sheet: Tensor
    quality: Quality
    table: str
    data: dict[str, Any]


def compared(reference: Tensor, video: Tensor, labels: tuple[str, str], gain: float, traces: tuple[Trace | None, ...]
             ) -> Compared:
    """Raises ValueError for videos of different sizes or lengths, or two labels that are the same."""
    a, b = to_arrays(reference), to_arrays(video)
    if a.shape != b.shape:
        raise ValueError(f"videos of {_size(a)} and {_size(b)}: only videos of one size and length can be compared; "
                         "make both with the same width, height and length")
    if labels[0] == labels[1]:
        raise ValueError(f"both videos are labelled {labels[0]!r}: give them different labels")
    videos, quality = dict(zip(labels, (a, b), strict=True)), compare(b, a)
    rows = [_row(label, trace) for label, trace in zip(labels, traces, strict=True)]
    rows[1] |= {"PSNR dB": quality.psnr, "PSNR dB moving": quality.psnr_moving, "SSIM": quality.ssim}
    if None not in traces:
        rows[1]["speed-up"] = traces[0].seconds / traces[1].seconds
    scale = max(1, round(LEAST_SIDE / min(a.shape[1:3])))
    return Compared(to_images(side_by_side(videos, scale, gain)), to_images(contact_sheet(videos, gain=gain)), quality,
                    comparison_table(rows), {"runs": [_finite(row) for row in rows]})


def _row(label: str, trace: Trace | None) -> dict[str, Any]:
    if trace is None:
        return {"run": label}
    return {"run": label, "seconds": trace.seconds, "model calls": trace.summary()["model_calls"],
            "computed": trace.computed_share, "KV MB": trace.kv_peak_bytes / 1e6}


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in row.items()}


def _size(video: np.ndarray) -> str:
    return f"{video.shape[0]} frames of {video.shape[2]} x {video.shape[1]}"
