"""Is the bundled model any good? Codec PSNR, and the task score of uncached videos at 8, 24 and 64 chunks,
beside that of the same prompts at 8 chunks."""

from typing import Any

import numpy as np
import torch

from benchmarks.common import Bundle, decode, request, run_batch, save, scenes
from flowcache_core.demo.scoring import score_video
from flowcache_core.demo.train_codec import codec_psnr, to_pixels
from flowcache_core.demo.world import random_starts, render

CODEC_CLIPS, CODEC_FRAMES = 16, 45
CLIPS = 64
# Chunks, the part of the clips that is made of them, and whether chunks see everything or the profile's window.
LENGTHS = ((8, 1, False), (24, 4, False), (24, 8, True), (64, 8, False))


def held_out_pixels() -> torch.Tensor:
    rng = np.random.default_rng(21)
    return torch.stack([to_pixels(render(scene, random_starts(scene, rng), CODEC_FRAMES))
                        for scene in scenes(CODEC_CLIPS, seed=22, held_out=True)])


def run(clips: int = CLIPS) -> dict[str, Any]:
    bundle, rows, short = Bundle.load(), [], []
    for chunks, part_of, whole in LENGTHS:
        count = max(1, clips // part_of)
        batch = scenes(count, seed=23, held_out=True)
        scores = []
        for i in range(0, count, 8):
            videos = decode(bundle, run_batch(bundle, request(chunks, seed=i, whole=whole), batch[i:i + 8])[0])
            scores += [score_video(frames, scene) for frames, scene in zip(videos, batch[i:i + 8], strict=True)]
        short = short or scores   # those of the shortest videos come first
        rows.append({"chunks": chunks, "sees": "everything" if whole else "8 chunks", "clips": count, **{
            part: round(100 * float(np.mean([getattr(s, part) for s in scores])), 1)
            for part in ("colour", "shape", "motion", "identity")},
            "score": round(float(np.mean([s.total for s in scores])), 1),
            "score_at_8": round(float(np.mean([s.total for s in short[:count]])), 1)})
    return save("world", {"codec_psnr_db": round(codec_psnr(bundle.codec, held_out_pixels()), 2),
                          "codec_clips": CODEC_CLIPS, "uncached": rows}, f"python3 dev.py bench world --clips {clips}")
