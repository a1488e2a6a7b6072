"""Every method on the same videos: `python3 dev.py compare [--group steps|kv] [--chunks N] [--methods A,B] ...`

One run is one method with one setting on all videos of a group. Each leaves a small JSON in the run folder and is not
made again, so a comparison goes on where it stopped; `--fresh` begins anew. Everything in a group is measured against
the uncached run of the same videos, which is part of it. The last line is one JSON object.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402

from benchmarks.common import ROOT, Bundle, decode, machine, request, run_batch, save, scenes  # noqa: E402
from benchmarks.methods import BASELINE, Method, kv_methods, step_methods  # noqa: E402
from flowcache_core.demo.bundle import TRANSFORMER  # noqa: E402
from flowcache_core.demo.scoring import score_video  # noqa: E402
from flowcache_core.metrics import psnr, ssim  # noqa: E402

RUNS = ROOT / "out" / "compare"


@dataclass(frozen=True)
class Group:
    """Runs on the same videos. batch: videos that are made together."""

    name: str
    chunks: int
    videos: int
    steps: int
    seed: int
    batch: int = 4


GROUPS = {"steps": Group("steps", 8, 16, 50, 61), "kv": Group("kv", 64, 4, 10, 62)}


def fingerprint(group: Group) -> str:
    """Of the weights and of what a group is: runs of other weights do not count."""
    weights = hashlib.sha256(Path(TRANSFORMER).read_bytes()).hexdigest()
    return hashlib.sha256(f"{weights} {group}".encode()).hexdigest()[:12]


class Comparison:
    """One group's runs and its folder."""

    def __init__(self, group: Group, folder: Path) -> None:
        self.group, self.folder = group, folder / f"{group.name}-{fingerprint(group)}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._bundle: Bundle | None = None
        self._scenes = scenes(group.videos, seed=group.seed, held_out=True)

    @property
    def bundle(self) -> Bundle:
        self._bundle = self._bundle or Bundle.load()
        return self._bundle

    def row(self, method: Method) -> dict[str, Any]:
        """The result of a method, from its file if it was run before."""
        path = self.folder / f"{method.key}.json"
        if path.is_file():
            return json.loads(path.read_text())
        begin = time.perf_counter()
        made = self._run(method)
        path.write_text(json.dumps(made) + "\n")
        print(f"{self.group.name}: {method.key}: {time.perf_counter() - begin:.0f} s, {made['psnr_db']} dB, "
              f"computed {made['computed_share']}", flush=True)
        return made

    def _truth(self) -> list[np.ndarray] | None:
        path = self.folder / "baseline.npz"
        return list(np.load(path)["frames"]) if path.is_file() else None

    def _run(self, method: Method) -> dict[str, Any]:
        group, videos, summaries, seconds = self.group, [], [], 0.0
        settings = {"steps": group.steps, **method.build(self.bundle, group.steps)}
        for begin in range(0, group.videos, group.batch):
            wanted = request(group.chunks, seed=begin, whole=True, **settings)
            latents, trace = run_batch(self.bundle, wanted, self._scenes[begin:begin + group.batch])
            videos += decode(self.bundle, latents)
            summaries.append(trace.summary())
            seconds += trace.seconds
        if method is BASELINE:
            np.savez_compressed(self.folder / "baseline.npz", frames=np.stack(videos))
        truth = self._truth()
        if truth is None:
            raise ValueError(f"{self.folder}: no uncached run; run the method baseline first")
        return {"method": method.name, "setting": method.setting, **figures(videos, truth, self._scenes, summaries),
                "seconds": round(seconds, 2)}


def figures(videos: Sequence[np.ndarray], truth: Sequence[np.ndarray], clips: Sequence[Any],
            summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is told of a run: means over its videos, sums over its batches."""
    quality = [psnr(v, t) for v, t in zip(videos, truth, strict=True)]
    exact = all(np.isinf(quality))
    flops = sum(s["flops"] for s in summaries)
    return {"computed_share": round(float(np.mean([s["computed_share"] for s in summaries])), 4),
            "flops_tera": round(flops / 1e12, 6),
            "kv_peak_mb": round(max(s["kv_peak_bytes"] for s in summaries) / 1e6, 2),
            "kv_peak_tokens": max(s["kv_peak_tokens"] for s in summaries),
            "psnr_db": None if exact else round(float(np.mean([q for q in quality if np.isfinite(q)])), 2),
            "ssim": round(float(np.mean([ssim(v, t) for v, t in zip(videos, truth, strict=True)])), 4),
            "score": round(float(np.mean([score_video(v, s).total for v, s in zip(videos, clips, strict=True)])), 1)}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py compare", description="compare every method on the same videos")
    parser.add_argument("--group", choices=(*GROUPS, "all"), default="all")
    parser.add_argument("--chunks", type=int, help="of a video, instead of the group's own number")
    parser.add_argument("--videos", type=int, help="instead of the group's own number")
    parser.add_argument("--steps", type=int, help="of a chunk, instead of the group's own number")
    parser.add_argument("--methods", help="names, separated by commas (default all)")
    parser.add_argument("--fresh", action="store_true", help="run again what was run before")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the runs")
    parser.add_argument("--no-save", action="store_true", help="leave benchmarks/results/compare.json as it is")
    return parser.parse_args(argv)


def chosen(methods: Sequence[Method], names: str | None) -> list[Method]:
    """The methods that were asked for, the baseline first. Raises ValueError for an unknown name."""
    if names is None:
        return [BASELINE, *methods]
    wanted, known = names.split(","), {m.name for m in methods}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"unknown method {', '.join(unknown)}: choose from {', '.join(sorted(known))}")
    return [BASELINE, *(m for m in methods if m.name in wanted)]


def compare(args: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in GROUPS if args.group == "all" else (args.group,):
        own = GROUPS[name]
        given = {key: getattr(args, key) for key in ("chunks", "videos", "steps") if getattr(args, key) is not None}
        few = next((key for key, number in given.items() if number < 1), None)
        if few:
            raise ValueError(f"--{few} {given[few]}: expected at least 1")
        group = replace(own, **given)
        comparison = Comparison(group, args.runs)
        make = step_methods if name == "steps" else kv_methods
        methods = chosen(make(group.chunks, comparison.folder), args.methods)
        if args.fresh:
            for method in methods:
                (comparison.folder / f"{method.key}.json").unlink(missing_ok=True)
        rows = [comparison.row(method) for method in methods]
        base, whole = rows[0]["seconds"], rows[0]["flops_tera"]
        result[name] = {"chunks": group.chunks, "videos": group.videos, "steps": group.steps,
                        "rows": [{**row, "speedup": round(base / row["seconds"], 3),
                                  "flops_share": round(row["flops_tera"] / whole, 4)} for row in rows]}
    return result


def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    try:
        result = compare(args)
    except ValueError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    if not args.no_save:
        result = save("compare", result, " ".join(("python3 dev.py compare", *argv)))
    print(json.dumps({"machine": machine(), **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
