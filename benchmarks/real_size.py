"""Whole videos of real size, composed from timed parts: dense, chunk by chunk, and FlowCache slow and fast.

`python benchmarks/real_size.py [--reduced] [--case NAME]`. Every part is the median of 5 timed passes; one real run of
the short video checks the composition. Speed-ups are composed from measured times, which is said wherever they are
shown. The last line is one JSON object.
"""

import argparse
import gc
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402

from benchmarks.common import save  # noqa: E402
from benchmarks.memory import status_bytes  # noqa: E402
from benchmarks.real_parts import (  # noqa: E402
    Case,
    Synced,
    compression_event,
    dense_pass,
    generation,
    load,
    matmul_peak,
    passes,
    synced,
)
from flowcache_core.backbones.magi import MagiTransformer  # noqa: E402
from flowcache_core.backbones.magi_parts import MagiConfig  # noqa: E402
from flowcache_core.backbones.wan import WanConfig, WanTransformer  # noqa: E402
from flowcache_core.kv import KVBudget  # noqa: E402
from flowcache_core.plan import ChunkPlan, diffusion_forcing  # noqa: E402

STEPS, AR_STEP = 50, 5
COMPUTED = {"uncached": 50, "FlowCache slow": 23, "FlowCache fast": 18}   # of 50 steps a chunk
WAN_1_3B = WanConfig(dim=1536, layers=30, ffn=8960, heads=12)
SMALL = WanConfig(dim=256, layers=4, ffn=1024, heads=2, text_dim=64)
CASES = [Case("Wan 1.3B, 480p", lambda: WanTransformer(WAN_1_3B), (60, 104), 5, 5, 6.0, 512, 4096),
         Case("Wan 1.3B, 540p", lambda: WanTransformer(WAN_1_3B), (68, 120), 5, 5, 6.0, 512, 4096),
         Case("MAGI-1 4.5B, 720x720, one window",
              lambda: MagiTransformer(MagiConfig(layers=34, hidden=3072, ffn=12288, heads=24)), (90, 90), 6, 4, 1.0,
              800, 4096)]
SMALL_MAGI = MagiConfig(layers=3, hidden=256, ffn=512, heads=8, head_dim=32, caption_channels=64, caption_max_length=32)
REDUCED = [Case("reduced Wan: dim 256, 4 layers", lambda: WanTransformer(SMALL), (16, 24), 5, 5, 6.0, 32, 64),
           Case("reduced MAGI-1: dim 256, 3 layers", lambda: MagiTransformer(SMALL_MAGI), (16, 16), 6, 4, 1.0, 32, 64)]
LENGTHS = (25, 60, 125, 245)   # latent frames: 97 to 977 pixel frames


def steps_computed(count: int, step: int) -> bool:
    """`count` of the steps, evenly spread, the first one among them."""
    return step * count // STEPS != (step - 1) * count // STEPS or step == 0


def composed(plan: ChunkPlan, parts: dict[int, dict[str, Any]], count: int) -> float:
    """Seconds of the plan's passes."""
    total = 0.0
    for p in plan.passes():
        part = parts[len(p.reads) + 1]
        total += part["computed_seconds" if steps_computed(count, p.steps[0]) else "skipped_seconds"]
    return total


def real_run(case: Case, model: Synced, plan: ChunkPlan, count: int) -> float:
    run = generation(case, model, plan, lambda _, step: steps_computed(count, step))
    synced()
    begin = time.perf_counter()
    run.run()
    synced()
    return time.perf_counter() - begin


def peak_memory(case: Case, model: Synced, frames: int) -> dict[str, Any]:
    """Memory beside the weights while a video of some length is made under a budget, in few steps."""
    gc.collect()
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")
        before = status_bytes("VmRSS")
    run = generation(case, model, diffusion_forcing(frames, case.chunk_frames, 2, 1), lambda _, step: True,
                     budget=KVBudget(4))
    run.run()
    peak = torch.cuda.max_memory_allocated() if on_gpu else status_bytes("VmHWM")
    return {"latent_frames": frames, "pixel_frames": 4 * frames - 3, "peak_bytes": peak - before,
            "kv_peak_bytes": run.trace.kv_peak_bytes}


def measure(case: Case, device: str, dtype: torch.dtype, peak: float, lengths: tuple[int, ...]) -> dict[str, Any]:
    model = load(case, device, dtype)
    plan = diffusion_forcing(case.chunks * case.chunk_frames, case.chunk_frames, STEPS, AR_STEP)
    fast = COMPUTED["FlowCache fast"]
    real_run(case, model, plan, fast)   # the first run of a process is slower
    before = real_run(case, model, plan, fast)
    parts = {seen: passes(case, model, seen) for seen in range(1, case.chunks + 1)}
    whole = dense_pass(case, model)
    for part in (*parts.values(), whole):
        part["flops_per_second"] = part["flops"] / part["computed_seconds"]
        part["share_of_peak"] = round(part["flops_per_second"] / peak, 4)
    measured = (before + real_run(case, model, plan, fast)) / 2   # around the parts, since a machine's speed drifts
    seconds = {name: composed(plan, parts, count) for name, count in COMPUTED.items()}
    dense_seconds = STEPS * whole["computed_seconds"]
    uncached = seconds["uncached"]
    rows = [{"setting": "dense, bidirectional", "seconds": round(dense_seconds, 3), "computed_share": 1.0}]
    for name, count in COMPUTED.items():
        bound = STEPS / count
        rows.append({"setting": f"chunk by chunk, {name}", "seconds": round(seconds[name], 3),
                     "computed_share": round(count / STEPS, 4), "against_uncached": round(uncached / seconds[name], 3),
                     "against_dense": round(dense_seconds / seconds[name], 3), "bound": round(bound, 3),
                     "of_bound": round(uncached / seconds[name] / bound, 4)})
    event = compression_event(case, model, dtype)
    return {"case": case.name, "pixel_frames": 4 * plan.frames - 3, "rows": rows, "parts": list(parts.values()),
            "dense": whole, "compression_event_seconds": event,
            "check": {"setting": "FlowCache fast", "measured_seconds": round(measured, 3),
                      "composed_seconds": round(seconds["FlowCache fast"], 3),
                      "difference": round(measured / seconds["FlowCache fast"] - 1, 4),
                      "within_5_percent": abs(measured / seconds["FlowCache fast"] - 1) <= 0.05},
            "memory": [peak_memory(case, model, frames) for frames in lengths]}


def run(reduced: bool | None = None, only: str = "") -> dict[str, Any]:
    """reduced: a small size; by itself where there is no GPU."""
    reduced = not torch.cuda.is_available() if reduced is None else reduced
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    peak = matmul_peak(device, dtype, 8192 if device == "cuda" else 512)
    cases = [replace(case) for case in (REDUCED if reduced else CASES) if only in case.name]
    if not cases:
        raise ValueError(f"--case {only!r}: expected a part of one of {', '.join(c.name for c in CASES)}")
    found = []
    for case in cases:
        found.append(measure(case, device, dtype, peak, LENGTHS[:2] if reduced else LENGTHS))
        gc.collect()
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return save("real_size_reduced" if reduced else "real_size",
                {"command": f"python benchmarks/real_size.py{' --reduced' * reduced}", "device": name,
                 "dtype": str(dtype).removeprefix("torch."), "matmul_peak_flops_per_second": peak,
                 "speed-ups": "composed from measured parts", "cases": found})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reduced", action="store_true", default=None, help="a small size, for a CPU")
    parser.add_argument("--case", default="", help="only cases whose name has this in it")
    given = parser.parse_args()
    print(json.dumps(run(given.reduced, given.case)))
