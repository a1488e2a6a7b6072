"""Pictures of the documents, made from benchmarks/results: `python3 dev.py bench figures`.

Speed against quality and task score, and memory over length.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, ROOT
from benchmarks.curves import PARTS, by_method, saving
from flowcache_core.report.curve_picture import curve_picture
from flowcache_core.video import write_png

IMAGES = ROOT / "docs" / "images"
LARGEST = 100_000   # bytes of a picture


def result(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def write(name: str, picture: np.ndarray) -> Path:
    """Raises ValueError for a picture that is too large to be committed."""
    path = IMAGES / name
    write_png(path, picture)
    if path.stat().st_size > LARGEST:
        size = path.stat().st_size
        path.unlink()
        raise ValueError(f"{name}: {size:,} bytes, expected at most {LARGEST:,}; draw less")
    return path


def speed_curves(rows: Sequence[Mapping[str, Any]], across: str, up: str) -> dict[str, list[tuple[float, float]]]:
    value = {"saving": saving, "speedup": lambda row: row["speedup"]}[across]
    return {name: [(value(row), row[up]) for row in its] for name, its in by_method(rows).items()}


def memory_curves(data: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in data["rows"]:
        budget = row["kv_budget_chunks"]
        name = f"budget of {budget} chunks" if budget else "no budget"
        curves.setdefault(name, []).append((row["chunks"], row["kv_peak_bytes"] / 1e6))
    return curves


def from_results() -> dict[str, np.ndarray]:
    """The pictures that the results at hand allow, by file name."""
    pictures, compared, memory = {}, result("compare"), result("memory")
    if memory is not None:
        pictures["memory.png"] = curve_picture("Memory of the KV cache over length", "chunks of the video", "MB",
                                               memory_curves(memory), front=False)
    rows = compared["steps"]["rows"] if compared and "steps" in compared else None
    if rows is not None:
        rows = [row for row in rows if row["method"] not in PARTS]
        pictures["speed_psnr.png"] = curve_picture("Measured speed against quality", "speed-up, measured", "PSNR dB",
                                                   speed_curves(rows, "speedup", "psnr_db"))
        pictures["flops_psnr.png"] = curve_picture("Saved FLOPs against quality", "1 / share of FLOPs, counted",
                                                   "PSNR dB", speed_curves(rows, "saving", "psnr_db"))
        pictures["speed_score.png"] = curve_picture("Measured speed against task score", "speed-up, measured",
                                                    "task score", speed_curves(rows, "speedup", "score"))
    return pictures


def run() -> dict[str, Any]:
    made = [write(name, picture) for name, picture in from_results().items()]
    return {"pictures": [str(path.relative_to(ROOT)) for path in made]}
