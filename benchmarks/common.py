"""What every benchmark shares: the bundled model, batches of prompted clips, and the form of a result."""

import json
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from flowcache_core.cli.output import to_frames  # noqa: E402
from flowcache_core.demo.bundle import load_codec, load_transformer  # noqa: E402
from flowcache_core.demo.text import describe, encode_scene  # noqa: E402
from flowcache_core.demo.world import Scene, random_scene  # noqa: E402
from flowcache_core.generation import COND, UNCOND, Generation  # noqa: E402
from flowcache_core.profiles import load_preset, load_profile  # noqa: E402
from flowcache_core.sampling import RunRequest, plan_request  # noqa: E402
from flowcache_core.trace import Trace  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Bundle:
    """The bundled model, ready to run."""

    backbone: Any
    codec: Any

    @classmethod
    def load(cls) -> "Bundle":
        return cls(load_transformer(), load_codec())


def scenes(count: int, seed: int, held_out: bool) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng, held_out) for _ in range(count)]


def request(chunks: int, steps: int | None = None, seed: int = 0, preset: str = "off", whole: bool = False,
            **changes: Any) -> RunRequest:
    """A run of the demo profile with one placeholder prompt a chunk. whole: every chunk sees all those before it, not
    the profile's window."""
    profile = load_profile("demo")
    schedule = plan_request(profile, chunks * profile.chunk_frames, steps=steps, ar_step=changes.pop("ar_step", None))
    plan = (replace(schedule, history=None) if whole else schedule).build()
    chosen = load_preset("demo", preset)
    words = {"shift": profile.shift, "guidance": profile.guidance, "policy": chosen.policy,
             "predictor": chosen.predictor}
    return RunRequest(profile, plan, ("",) * chunks, seed, **{**words, **changes})


def generation(bundle: Bundle, wanted: RunRequest, batch: Sequence[Scene]) -> Generation:
    """A run that makes a clip per scene."""
    with torch.inference_mode():
        cond = bundle.backbone.embed_text(torch.stack([encode_scene(scene) for scene in batch]))
        uncond = bundle.backbone.embed_text(torch.stack([encode_scene(None)] * len(batch)))
    chunks = len(wanted.plan.chunks)
    return Generation(bundle.backbone, wanted.plan, replace(wanted.settings(), items=len(batch)),
                      {COND: [cond] * chunks, UNCOND: [uncond] * chunks})


def run_batch(bundle: Bundle, wanted: RunRequest, batch: Sequence[Scene]) -> tuple[Tensor, Trace]:
    """Latents `(len(batch), C, F, h, w)` of one run that makes a clip per scene."""
    run = generation(bundle, wanted, batch)
    return run.run(), run.trace


def decode(bundle: Bundle, latents: Tensor) -> list[np.ndarray]:
    """uint8 frames `(T, H, W, 3)` of every item."""
    pixels = bundle.codec.decode(latents)
    return [to_frames(item.unsqueeze(0)) for item in pixels]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def machine() -> dict[str, Any]:
    return {"torch": torch.__version__.split("+")[0], "threads": torch.get_num_threads(),
            "processor": platform.machine(), "python": platform.python_version(),
            "device": "cuda" if torch.cuda.is_available() else "cpu"}


def save(name: str, result: dict[str, Any], command: str = "") -> dict[str, Any]:
    """Writes `benchmarks/results/NAME.json` and returns the result with its header."""
    whole = {"benchmark": name, "command": command or f"python3 dev.py bench {name}", "date": time.strftime("%Y-%m-%d"),
             "machine": machine(), **result}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
    return whole


def prompt_of(scene: Scene) -> str:
    return describe(scene)
