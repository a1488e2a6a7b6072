"""AnnSA at the size of a real layer: how much of the attention it finds, at what density, and what that costs.

Queries and keys are made: a moving picture of as many directions as a scene has parts, with noise, rotated as Wan does.
So time is that of real shapes, and recall that of structured, not of real, attention. `--reduced` for a quick look.
"""

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.common import median, save  # noqa: E402
from flowcache_core.attention import SPARSE, KeySet, Place, WeightedAttention  # noqa: E402
from flowcache_core.backbones.hooks import attend, rotate  # noqa: E402
from flowcache_core.backbones.wan import rope_table  # noqa: E402

WIDTH, PARTS, SHARPNESS, NOISE = 128, 24, 5.0, 0.5
FULL = {"heads": 12, "rows": 34, "columns": 60, "own": 5, "past": 20, "repeats": 3}     # 10,200 queries, 51,000 keys
REDUCED = {"heads": 2, "rows": 17, "columns": 30, "own": 3, "past": 12, "repeats": 1}
SAMPLED, TOP = 128, 0.3
KEEPS = (0.5, 0.7, 0.8, 0.9)


def moving_picture(heads: int, rows: int, columns: int, frames: int, device: torch.device) -> Tensor:
    """`(1, heads, frames * rows * columns, WIDTH)`: every cell shows one of PARTS directions; areas drift."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(heads, PARTS, WIDTH, generator=generator), dim=-1)
    seeds, speed = torch.rand(PARTS, 2, generator=generator), 0.02 * torch.randn(PARTS, 2, generator=generator)
    cells = torch.cartesian_prod(torch.arange(rows) / rows, torch.arange(columns) / columns)
    parts = torch.cat([torch.cdist(cells, (seeds + f * speed) % 1).argmin(-1) for f in range(frames)])
    picture = SHARPNESS * WIDTH**0.25 * directions[:, parts]
    return (picture + NOISE * torch.randn(picture.shape, generator=generator)).unsqueeze(0).to(device)


def layer(size: dict[str, int], device: torch.device) -> tuple[Tensor, KeySet, Place]:
    per_frame, frames = size["rows"] * size["columns"], size["own"] + size["past"]
    content = moving_picture(size["heads"], size["rows"], size["columns"], frames, device)
    rope = rope_table(range(frames), size["rows"], size["columns"], WIDTH, device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    keys = rotate(content, rope).to(dtype)
    own = size["own"] * per_frame
    noise = torch.Generator().manual_seed(1)
    q = content[:, :, -own:] + NOISE * torch.randn(content[:, :, -own:].shape, generator=noise).to(device)
    values = torch.randn(keys.shape, generator=noise).to(device, dtype)
    return (rotate(q, rope[-own:]).to(dtype), KeySet(keys, values),
            Place(2, 6, "cond#0", (1,), 20, 50, per_frame, own))


def recall(q: Tensor, k: Tensor, seen: Tensor, sampled: Tensor) -> tuple[float, float]:
    """Shares on looked-at keys of all mass, and of the largest entries that hold `TOP` of it; seen `(H, s, n)`."""
    whole, top = 0.0, 0.0
    for head in range(q.shape[1]):
        mass = (q[0, head, sampled].float() @ k[0, head].float().T / WIDTH**0.5).softmax(-1)
        ranked = mass.sort(dim=-1, descending=True)
        largest = torch.zeros_like(mass).scatter_(-1, ranked.indices, (ranked.values.cumsum(-1) - ranked.values < TOP)
                                                  .float()) * mass
        whole += (mass * seen[head]).sum(-1).mean().item()
        top += ((largest * seen[head]).sum(-1) / largest.sum(-1)).mean().item()
    return whole / q.shape[1], top / q.shape[1]


def looked_at(method: Any, choice: Any, keys: int, place: Place, sampled: Tensor) -> Tensor:
    """`(H, s, n)`: which keys the sampled queries see."""
    start, inside = method.sink_frames * place.tokens_per_frame, choice.order.shape[-1]
    seen = torch.ones(choice.order.shape[1], len(sampled), keys, dtype=torch.bool, device=sampled.device)
    for head in range(len(seen)):
        blocks = choice.table[0, head, choice.back[0, head, sampled] // method.query_block]
        by_order = blocks.repeat_interleave(method.block, dim=-1)
        seen[head, :, start:start + inside] = by_order[:, choice.order[0, head].argsort()]
    return seen


def timed(call: Any, repeats: int, device: torch.device) -> float:
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return median(seconds)


def run(reduced: bool = False) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = REDUCED if reduced else FULL
    with torch.inference_mode():
        q, past, place = layer(size, device)
        n, rows = past.keys.shape[2], []
        sampled = torch.linspace(0, q.shape[2] - 1, SAMPLED, device=device).long()
        call = [attend, WeightedAttention()]
        exact = attend(q[:, :, sampled], past.keys, past.values).float()
        timed(lambda: attend(q[:, :, :64], past.keys, past.values), 1, device)
        dense = timed(lambda: attend(q, past.keys, past.values), size["repeats"], device)
        for codes in ("lsh", "quant"):
            for keep in KEEPS:
                method = SPARSE.make("annsa", {"codes": codes, "keep": keep, "least_share": 0.0})
                memory: dict[Any, Any] = {}
                begin = time.perf_counter()
                found = method.attend(place, q, past, *call, memory)
                first = time.perf_counter() - begin
                seconds = timed(lambda m=method, x=memory: m.attend(place, q, past, *call, x), size["repeats"], device)
                seen = looked_at(method, next(iter(memory.values())), n, place, sampled)
                whole, top = recall(q, past.keys, seen, sampled)
                error = (found.out[:, :, sampled].float() - exact).norm() / exact.norm()
                rows.append({"codes": codes, "keep": keep, "density": round(found.density, 4),
                             "recall": round(whole, 4), "recall_top": round(top, 4), "error": round(error.item(), 4),
                             "seconds": round(seconds, 3), "choosing_seconds": round(max(0.0, first - seconds), 3),
                             "speed_up": round(dense / seconds, 2)})
    result = {"reduced": reduced, "queries": q.shape[2], "keys": n, "heads": size["heads"], "head_dim": WIDTH,
              "dtype": str(q.dtype).removeprefix("torch."), "dense_seconds": round(dense, 3), "rows": rows}
    return result if reduced else save("sparse", result)


if __name__ == "__main__":
    for line in run("--reduced" in sys.argv[1:])["rows"]:
        print(line)
