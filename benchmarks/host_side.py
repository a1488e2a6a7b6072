"""The host's part of `benchmarks/host.py`, run in ComfyUI's own Python: what the bridge costs with the policy off, and
the workflow 2_uncached_and_accelerated. Needs no server. The last line is one JSON object.
"""

import argparse
import importlib
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def load(name: str, path: Path) -> ModuleType:
    """A module by its file: the root of the pack must not be on `sys.path`, where its `nodes` would hide the host's."""
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=(
        [str(path.parent)] if path.name == "__init__.py" else None))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("height", 52), ("width", 120), ("dim", 1536), ("layers", 4), ("ffn", 8960), ("steps", 4),
                          ("clips", 3), ("video-steps", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args(argv)


def measured(pack: ModuleType, tiny: ModuleType, args: argparse.Namespace) -> dict[str, Any]:
    """Two chunks of three latent frames; the first one sees an empty cache."""
    part = {name: importlib.import_module(f"{pack.__name__}.nodes.bridge.{name}")
            for name in ("chunked", "listening", "outer", "run")}
    profiles = importlib.import_module(f"{pack.__name__}.flowcache_core.profiles")
    shares: dict[str, dict[str, float]] = {}

    class Watch(part["listening"].Listener):
        def begin(self, run: Any) -> None:
            self.run = run

        def chunk(self, chunk: int, latent: Any) -> None:
            hooks, trace = self.run.backbone.hooks, self.run.generation.trace
            seconds = sum(p.seconds for p in trace.passes)
            shares[f"after chunk {chunk}"] = {
                "seconds": round(seconds, 3), "bridge_seconds": round(hooks.watch.hooks, 4),
                "percent": round(100 * hooks.watch.hooks / seconds, 3), "network_calls": hooks.calls}

    model = tiny.load(dim=args.dim, layers=args.layers, ffn=args.ffn)
    model = part["outer"].attach(model, profile=profiles.load_profile("self-forcing"))
    sampler = part["chunked"].ChunkedSampler(part["run"].ChunkRequest(noise="per_chunk", solver="euler"), Watch)
    tiny.sample(model, sampler, tiny.sigmas(args.steps), 1.0, (1, 16, 6, args.height, args.width))
    return {"what": f"dim {args.dim}, {args.layers} layers, latent {args.height}x{args.width}, chunks of 3 frames, "
                    f"{args.steps} steps, guidance 1, fp32", **shares}


def video(host: ModuleType, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds by the reports of both samplers of the workflow, one pair for every video; the first one warms up."""
    graph = json.loads((ROOT / "workflows" / "api" / "2_uncached_and_accelerated.json").read_text(encoding="utf-8"))
    queue, pairs = host.Queue(), []
    for seed in range(args.clips + 1):
        for node in graph.values():
            if node["class_type"] == "FlowCache_ChunkedARSampler":
                node["inputs"].update(seed=seed, steps=args.video_steps if seed else 2)
        begin = time.perf_counter()
        shown = queue.run(graph)
        (compared,) = (found["comparison"][0] for found in shown.values() if "comparison" in found)
        print(f"video {seed}: {time.perf_counter() - begin:.1f} s", file=sys.stderr)
        pairs.append(compared["runs"])
    plain, fast = zip(*pairs[1:], strict=True)
    return {"uncached": [run["seconds"] for run in plain], "accelerated": [run["seconds"] for run in fast],
            "share": fast[-1]["computed"]}


def main(argv: list[str]) -> int:
    args, checkout = arguments(argv), os.environ.get("COMFYUI_PATH")
    if not checkout:
        print("COMFYUI_PATH names no ComfyUI checkout: set it, and run this with the Python of that checkout",
              file=sys.stderr)
        return 2
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() not in (ROOT, ROOT / "benchmarks")]
    with tempfile.TemporaryDirectory() as base:
        host = load("flowcache_test_host", ROOT / "tests" / "nodes" / "host.py")
        host.start(Path(checkout), Path(base))
        host.load_builtins()
        pack = host.load_pack(ROOT)
        result = {"bridge": measured(pack, load("flowcache_tiny", ROOT / "tests" / "nodes" / "tiny.py"), args),
                  **video(host, args), "comfyui": importlib.import_module("comfyui_version").__version__}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
