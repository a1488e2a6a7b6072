"""KV compression: a long video under a quarter of the cache, and one event at the size of a real model."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.common import Bundle, decode, median, request, run_batch, save, scenes
from benchmarks.memory import status_bytes
from flowcache_core.demo.scoring import score_video
from flowcache_core.kv import Cached, Compression, KVBudget
from flowcache_core.metrics import psnr

CHUNKS, CLIPS, STEPS = 24, 8, 20
BUDGET = KVBudget(CHUNKS / 4)
RUNS = {"full cache": {}, "recent chunks only": {"budget": BUDGET},
        "compression": {"budget": BUDGET, "compression": Compression()}}
HEADS, QUERIES, KEYS, WIDTH, REPEATS = 12, 10_200, 20_400, 128, 3   # SkyReels-V2 1.3B, 540P, one layer


def long_video(clips: int) -> list[dict[str, Any]]:
    """The same clips with each cache."""
    bundle, batch, rows, truth = Bundle.load(), scenes(clips, seed=41, held_out=True), [], None
    for name, changes in RUNS.items():
        latents, trace = run_batch(bundle, request(CHUNKS, steps=STEPS, whole=True, **changes), batch)
        videos, summary = decode(bundle, latents), trace.summary()
        truth = truth or videos
        scores = [score_video(video, scene).total for video, scene in zip(videos, batch, strict=True)]
        rows.append({"cache": name, "kv_peak_bytes": trace.kv_peak_bytes, "seconds": summary["seconds"],
                     "compress_percent": round(100 * summary["compress_seconds"] / summary["seconds"], 2),
                     "score": round(float(np.mean(scores)), 1),
                     "psnr_db": None if videos is truth else round(float(np.mean(
                         [psnr(v, t) for v, t in zip(videos, truth, strict=True)])), 2)})
    for row in rows:
        row["kv_share"] = round(row["kv_peak_bytes"] / rows[0]["kv_peak_bytes"], 3)
    return rows


def real_size() -> dict[str, Any]:
    """One event of one layer in bf16: memory beside keys and queries, and time beside an attention of that shape."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, n, WIDTH, generator=generator).bfloat16() for n in (QUERIES, KEYS, KEYS))
    cached = Cached(k, v, torch.arange(KEYS).expand(1, HEADS, -1), KEYS // 10, KEYS // 2)
    chosen, seconds = Compression(), {"compression": [], "attention": []}
    F.scaled_dot_product_attention(q[:, :, :64], k, v)
    Path("/proc/self/clear_refs").write_text("5")   # resets the process's peak
    before = status_bytes("VmRSS")
    chosen.choose(q, cached, KEYS // 2)
    extra = status_bytes("VmHWM") - before
    for _ in range(REPEATS):
        for name, call in (("compression", lambda: chosen.choose(q, cached, KEYS // 2)),
                           ("attention", lambda: F.scaled_dot_product_attention(q, k, v))):
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    return {"heads": HEADS, "queries": QUERIES, "keys": KEYS, "head_dim": WIDTH, "extra_mb": round(extra / 1e6, 1),
            **{f"{name}_seconds": round(median(values), 2) for name, values in seconds.items()}}


def run(clips: int = CLIPS) -> dict[str, Any]:
    with torch.inference_mode():
        event = real_size()
    return save("compression", {"chunks": CHUNKS, "clips": clips, "steps": STEPS,
                                "in_flight": request(CHUNKS).plan.most_in_flight(),
                                "long_video": long_video(clips), "real_size": event})
