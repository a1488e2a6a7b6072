"""The presets against the uncached run: quality and task score (`speed` measures time).

In the same table: the uncached run with fewer steps at equal computed share, every n-th step, and the frozen first
frame. PSNR and SSIM are against the uncached run; the task score is absolute.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.common import Bundle, decode, request, run_batch, save, scenes
from flowcache_core.demo.scoring import score_video
from flowcache_core.metrics import psnr, ssim
from flowcache_core.reuse import POLICIES, PREDICTORS
from flowcache_core.sampling import RunRequest

CHUNKS, BATCH = 8, 8
CLIPS = 64   # for the uncached run and `fast`; a quarter of them for the other settings
PRESETS = ("quality", "balanced", "fast")
BOOTSTRAPS = 2000


@dataclass(frozen=True)
class Made:
    """Videos of all clips, their scores, and the computed share."""

    videos: list[np.ndarray]
    scores: np.ndarray
    share: float


def make(bundle: Bundle, wanted: RunRequest, clips: list) -> Made:
    videos, shares = [], []
    for i in range(0, len(clips), BATCH):
        latents, trace = run_batch(bundle, wanted, clips[i:i + BATCH])
        videos += decode(bundle, latents)
        shares.append(trace.computed_share)
    scores = np.array([score_video(v, scene).total for v, scene in zip(videos, clips, strict=True)])
    return Made(videos, scores, float(np.mean(shares)))


def score_difference(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Mean of b - a over paired clips with its 95 % bootstrap interval."""
    rng, difference = np.random.default_rng(0), b - a
    means = difference[rng.integers(0, len(a), (BOOTSTRAPS, len(a)))].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return {"mean": round(float(difference.mean()), 2), "low": round(float(low), 2), "high": round(float(high), 2)}


def quality_row(name: str, made: Made, truth: Made) -> dict[str, Any]:
    """Against the same clips of the uncached run: its first ones, where fewer were made."""
    count = len(made.videos)
    truth = Made(truth.videos[:count], truth.scores[:count], truth.share)
    values = [psnr(v, t) for v, t in zip(made.videos, truth.videos, strict=True)]
    exact = not np.isfinite(values).all()   # the uncached run beside itself
    return {"setting": name, "clips": count, "computed_share": round(made.share, 4),
            "psnr_db": None if exact else round(float(np.mean(values)), 2),
            "worst_psnr_db": None if exact else round(float(min(values)), 2),
            "ssim": round(float(np.mean([ssim(v, t) for v, t in zip(made.videos, truth.videos, strict=True)])), 4),
            "score": round(float(made.scores.mean()), 1), "score_change": score_difference(truth.scores, made.scores)}


def run(clips: int = CLIPS) -> dict[str, Any]:
    bundle, batch = Bundle.load(), scenes(clips, seed=32, held_out=True)
    few = batch[:max(1, clips // 4)]
    truth = make(bundle, request(CHUNKS), batch)
    rows = [quality_row("uncached", truth, truth)]
    for name in PRESETS:
        made = make(bundle, request(CHUNKS, preset=name), batch if name == "fast" else few)
        rows.append(quality_row(name, made, truth))
        steps = max(2, round(made.share * request(1).plan.num_steps))
        fewer = make(bundle, request(CHUNKS, steps=steps), few)
        rows.append(quality_row(f"uncached, {steps} steps", fewer, truth))
    for n in (2, 3):
        plain = request(CHUNKS).accelerated(POLICIES.make("every_nth", {"interval": n}), PREDICTORS.make("velocity"))
        rows.append(quality_row(f"every_nth {n}", make(bundle, plain, few), truth))
    frozen = [np.repeat(video[:1], len(video), axis=0) for video in truth.videos]
    scores = np.array([score_video(v, scene).total for v, scene in zip(frozen, batch, strict=True)])
    rows.append(quality_row("frozen first frame", Made(frozen, scores, 0.0), truth))
    return save("demo", {"chunks": CHUNKS, "quality": rows},
                f"python3 dev.py bench demo --clips {clips}")
