"""Is the bundled model any good? Codec PSNR, and the task score of uncached videos at 8, 24 and 64 chunks."""

from typing import Any

import numpy as np
import torch

from benchmarks.common import Bundle, decode, request, run_batch, save, scenes
from flowcache_core.demo.scoring import score_video
from flowcache_core.demo.train_codec import codec_psnr, to_pixels
from flowcache_core.demo.world import random_starts, render

CODEC_CLIPS, CODEC_FRAMES = 16, 45
CLIPS = 64
LENGTHS = ((8, 1), (24, 4), (64, 8))   # chunks, and the part of the clips that is made of them


def held_out_pixels() -> torch.Tensor:
    rng = np.random.default_rng(21)
    return torch.stack([to_pixels(render(scene, random_starts(scene, rng), CODEC_FRAMES))
                        for scene in scenes(CODEC_CLIPS, seed=22, held_out=True)])


def run(clips: int = CLIPS) -> dict[str, Any]:
    bundle, rows = Bundle.load(), []
    for chunks, part_of in LENGTHS:
        count = max(1, clips // part_of)
        batch = scenes(count, seed=23, held_out=True)
        scores = []
        for i in range(0, count, 8):
            videos = decode(bundle, run_batch(bundle, request(chunks, seed=i), batch[i:i + 8])[0])
            scores += [score_video(frames, scene) for frames, scene in zip(videos, batch[i:i + 8], strict=True)]
        rows.append({"chunks": chunks, "clips": count, **{
            part: round(100 * float(np.mean([getattr(s, part) for s in scores])), 1)
            for part in ("colour", "shape", "motion", "identity")},
            "score": round(float(np.mean([s.total for s in scores])), 1)})
    return save("world", {"codec_psnr_db": round(codec_psnr(bundle.codec, held_out_pixels()), 2),
                          "codec_clips": CODEC_CLIPS, "uncached": rows}, f"python3 dev.py bench world --clips {clips}")
