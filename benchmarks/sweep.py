"""Speed against quality for reuse settings on the bundled model: what chose the presets."""

import itertools
from typing import Any

import numpy as np

from benchmarks.common import Bundle, decode, request, run_batch, save, scenes
from flowcache_core.metrics import psnr
from flowcache_core.reuse import POLICIES, PREDICTORS

THRESHOLDS = {"time_modulation": (0.05, 0.1, 0.15, 0.2, 0.3), "patch_embedding": (0.1,)}
CHUNKS, CLIPS, BATCH = 4, 8, 8


def settings() -> list[tuple[str, dict[str, Any], str]]:
    found = [("flowcache", {"threshold": t, "distance_signal": signal}, predictor)
             for predictor in ("velocity", "taylor") for signal, values in THRESHOLDS.items() for t in values]
    return found + [("every_nth", {"interval": n}, predictor)
                    for predictor in ("velocity", "taylor") for n in (2, 3, 4)]


def run() -> dict[str, Any]:
    bundle, wanted = Bundle.load(), request(CHUNKS)
    clips = scenes(CLIPS, seed=11, held_out=True)
    batches = [clips[i:i + BATCH] for i in range(0, CLIPS, BATCH)]
    reference = [frames for batch in batches for frames in decode(bundle, run_batch(bundle, wanted, batch)[0])]
    rows = []
    for policy, words, predictor in settings():
        changed = wanted.accelerated(POLICIES.make(policy, words), PREDICTORS.make(predictor))
        runs = [run_batch(bundle, changed, batch) for batch in batches]
        made = itertools.chain.from_iterable(decode(bundle, latents) for latents, _ in runs)
        values = [psnr(frames, truth) for frames, truth in zip(made, reference, strict=True)]
        rows.append({"policy": policy, **words, "predictor": predictor,
                     "computed_share": round(float(np.mean([trace.computed_share for _, trace in runs])), 4),
                     "psnr_db": round(float(np.mean(values)), 2), "worst_psnr_db": round(min(values), 2)})
    return save("sweep", {"chunks": CHUNKS, "clips": CLIPS, "steps": wanted.plan.num_steps, "rows": rows})
