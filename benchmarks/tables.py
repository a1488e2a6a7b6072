"""Writes the tables of README and docs from benchmarks/results/*.json, between markers.

    <!-- table NAME -->
    ...
    <!-- end -->

`python benchmarks/tables.py` rewrites them; with `--check` it only says which are stale (exit 1).
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if "flowcache_core" not in sys.modules:   # tests load the core by file and keep the root off the path
    sys.path.insert(0, str(ROOT))

sys.path.append(str(Path(__file__).resolve().parent))

from curves import equal_quality  # noqa: E402

from flowcache_core.report.tables import comparison_table  # noqa: E402

PAGES = ("README.md", "docs/benchmarks.md", "docs/flowcache.md", "docs/sparse-attention.md")
BLOCK = re.compile(r"(<!-- table (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
Rows = list[dict[str, Any]]


def speed(result: dict[str, Any]) -> Rows:
    return [{"setting": r["setting"], "seconds": r["seconds"], "computed share": r["computed_share"],
             "speed-up ↑": r["speedup"], "bound": r["bound"], "of bound": r["of_bound"]}
            for r in result["speed"]]


def quality(result: dict[str, Any]) -> Rows:
    return [{"setting": r["setting"], "clips": r["clips"], "computed share": r["computed_share"],
             "PSNR dB ↑": r["psnr_db"], "worst PSNR dB": r["worst_psnr_db"], "SSIM ↑": r["ssim"],
             "task score ↑": r["score"],
             "change (95 % interval)": "{mean:+.1f} ({low:+.1f} to {high:+.1f})".format(**r["score_change"])}
            for r in result["quality"]]


def world(result: dict[str, Any]) -> Rows:
    return [{"chunks": r["chunks"], "sees": r.get("sees"), "clips": r["clips"], "colour": r["colour"],
             "shape": r["shape"], "motion": r["motion"], "identity": r["identity"], "task score": r["score"],
             "same prompts, 8 chunks": r.get("score_at_8")}
            for r in result["uncached"]]


def skip(result: dict[str, Any]) -> Rows:
    return [{"what": r["what"], "computed ms": r["computed_ms"], "skipped ms": r["skipped_ms"],
             "skipped / computed %": r["skip_percent"]} for r in result["skip"]]


def hooks(result: dict[str, Any]) -> Rows:
    return [{"preset": r["preset"], "policy bookkeeping %": r.get("bookkeeping_percent"),
             "keys written and read %": r.get("kv_percent"), "all our code %": r["hook_percent"]}
            for r in result["hooks"]]


def bridge(result: dict[str, Any]) -> Rows:
    return [{"after": place.removeprefix("after "), "seconds": r["seconds"], "bridge seconds": r["bridge_seconds"],
             "bridge / run %": r["percent"]} for place, r in result["bridge"].items() if place != "what"]


def host_speed(result: dict[str, Any]) -> Rows:
    return [{"where": r["where"], "uncached s": r["uncached_seconds"], "accelerated s": r["accelerated_seconds"],
             "computed share": r["computed_share"], "speed-up ↑": r["speedup"]} for r in result["speed"]]


def memory(result: dict[str, Any]) -> Rows:
    return [{"chunks": r["chunks"], "KV budget (chunks)": r["kv_budget_chunks"] or "none",
             "KV peak MB": round(r["kv_peak_bytes"] / 1e6, 2), "KV peak tokens": r["kv_peak_tokens"],
             "process MB": round(r["process_bytes"] / 1e6, 1) if "process_bytes" in r else None}
            for r in result["rows"]]


def compression(result: dict[str, Any]) -> Rows:
    return [{"cache": r["cache"], "KV peak MB": round(r["kv_peak_bytes"] / 1e6, 2), "of full": r["kv_share"],
             "task score ↑": r["score"], "PSNR dB against full": r["psnr_db"],
             "choosing tokens %": r["compress_percent"]}
            for r in result["long_video"]]


def event(result: dict[str, Any]) -> Rows:
    r = result["real_size"]
    return [{"heads": r["heads"], "queries": r["queries"], "keys": r["keys"], "extra MB": r["extra_mb"],
             "compression s": r["compression_seconds"], "one attention s": r["attention_seconds"]}]


def sparse(result: dict[str, Any]) -> Rows:
    dense = {"codes": "all keys", "density": 1.0, "seconds": result["dense_seconds"], "speed-up ↑": 1.0}
    return [dense, *({"codes": r["codes"], "keep": r["keep"], "density": r["density"], "mass seen": r["recall"],
                      "top 30 % of the mass seen": r["recall_top"], "output error": r["error"],
                      "seconds": r["seconds"], "choosing s": r["choosing_seconds"], "speed-up ↑": r["speed_up"]}
                     for r in result["rows"])]


def real_size(result: dict[str, Any]) -> Rows:
    return [{"model": case["case"], "setting": r["setting"], "computed share": r["computed_share"],
             "seconds": r["seconds"], "against uncached ↑": r.get("against_uncached"),
             "against dense ↑": r.get("against_dense"), "of bound": r.get("of_bound")}
            for case in result["cases"] for r in case["rows"]]


def real_passes(result: dict[str, Any]) -> Rows:
    return [{"model": case["case"], "chunks seen": p.get("seen_chunks", "all, dense"),
             "pass ms": round(1000 * p["computed_seconds"], 1),
             "skipped ms": round(1000 * p["skipped_seconds"], 2) if "skipped_seconds" in p else None,
             "TFLOP/s": round(p["flops_per_second"] / 1e12, 2), "of matmul peak": p["share_of_peak"],
             "KV GB": round(p["kv_bytes"] / 1e9, 3) if "kv_bytes" in p else None}
            for case in result["cases"] for p in (*case["parts"], case["dense"])]


def real_memory(result: dict[str, Any]) -> Rows:
    return [{"model": case["case"], "pixel frames": m["pixel_frames"], "peak GB": round(m["peak_bytes"] / 1e9, 3),
             "KV GB": round(m["kv_peak_bytes"] / 1e9, 3)} for case in result["cases"] for m in case["memory"]]


def compared(group: str) -> Callable[[dict[str, Any]], Rows]:
    def rows(result: dict[str, Any]) -> Rows:
        return [{"method": r["method"], "setting": r["setting"] or "-", "seconds": r["seconds"],
                 "speed-up ↑": r["speedup"], "computed share": r["computed_share"], "FLOP share ↓": r["flops_share"],
                 "KV peak MB ↓": r["kv_peak_mb"], "PSNR dB ↑": r["psnr_db"], "SSIM ↑": r["ssim"],
                 "task score ↑": r["score"]} for r in result[group]["rows"]]
    return rows


def equal(result: dict[str, Any]) -> Rows:
    return equal_quality(result["steps"]["rows"])


def ablation(result: dict[str, Any]) -> Rows:
    """What each part of our own brings, from plain FlowCache to all of them."""
    parts = {"flowcache": "a threshold, the last velocity again, a warm-up of 5 steps",
             "warm-up 1": "a warm-up of 1 step", "warm-up 1 taylor": "and a first-order predictor",
             "one threshold": "and what it missed made up for",
             "ours": "and care for the first chunk: our presets, and what goes on below them",
             "ours learned": "without that care, a learned schedule in place of the threshold",
             "ours learned derived": "and unconditional steps derived"}
    known = {entry["method"]: entry for entry in equal(result)}
    return [{"parts": words, **known[name]} for name, words in parts.items() if name in known]


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], Rows]]] = {
    "speed": ("speed", speed), "quality": ("demo", quality), "world": ("world", world), "skip": ("overhead", skip),
    "hooks": ("overhead", hooks), "bridge": ("host", bridge), "host_speed": ("host", host_speed),
    "memory": ("memory", memory),
    "real_size": ("real_size", real_size), "real_passes": ("real_size", real_passes),
    "real_memory": ("real_size", real_memory), "reduced_size": ("real_size_reduced", real_size),
    "reduced_passes": ("real_size_reduced", real_passes), "compression": ("compression", compression),
    "event": ("compression", event), "sparse": ("sparse", sparse),
    "compare-steps": ("compare", compared("steps")), "compare-kv": ("compare", compared("kv")),
    "equal": ("compare", equal), "ablation": ("compare", ablation)}


def table(name: str, results: dict[str, Any]) -> str:
    """The table `name` as markdown, from the results of its benchmark."""
    benchmark, rows = TABLES[name]
    group = {"compare-steps": "steps", "compare-kv": "kv", "equal": "steps", "ablation": "steps"}.get(name)
    if benchmark not in results or group and group not in results[benchmark]:
        return "Not yet measured."
    return comparison_table(rows(results[benchmark]), markdown=True)


def rewritten(text: str, results: dict[str, Any]) -> str:
    """The page with every table made anew."""
    return BLOCK.sub(lambda m: f"{m[1]}{table(m[2], results)}\n{m[4]}", text)


def main(check: bool) -> int:
    results = {path.stem: json.loads(path.read_text()) for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    stale = []
    for page in (ROOT / name for name in PAGES):
        text = page.read_text()
        new = rewritten(text, results)
        if new != text:
            stale.append(page.name)
            if not check:
                page.write_text(new)
    print(f"{'stale' if check else 'rewritten'}: {', '.join(stale) or 'none'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
