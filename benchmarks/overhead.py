"""What our own code costs: a skipped chunk step beside a computed one, and the time spent in hooks."""

from typing import Any

import torch

from benchmarks.common import Bundle, median, request, run_batch, save, scenes
from flowcache_core.backbones.wan import WanConfig, WanTransformer
from flowcache_core.generation import COND, UNCOND, Generation, RunSettings
from flowcache_core.plan import diffusion_forcing
from flowcache_core.reuse import POLICIES, PREDICTORS
from flowcache_core.solvers import flow_table

REAL = WanConfig(dim=1536, layers=8, ffn=8960, heads=12)
REAL_PREDICTORS = "velocity", "taylor_corrected", "residual", "taylor_residual"   # a pass takes seconds
REAL_LATENT, REAL_FRAMES = (52, 120), 3   # 26 x 60 tokens a frame: 4,680 a chunk


def pass_seconds(run: Generation) -> dict[str, list[float]]:
    """Seconds of the run's denoising passes, by whether they were computed."""
    run.run()
    seconds: dict[str, list[float]] = {"compute": [], "reuse": []}
    for p in run.trace.passes[1:]:
        if p.lanes:
            seconds["compute" if p.lanes[0].decision == "compute" else "reuse"].append(p.seconds)
    return seconds


def real_width(predictor: str) -> dict[str, Any]:
    """One chunk of 4,680 tokens through 8 layers of the 1.3B's width, bf16, random weights, one stream."""
    torch.manual_seed(0)
    with torch.inference_mode():
        model = WanTransformer(REAL).to(torch.bfloat16).eval()
        text = model.embed_text(torch.randn(1, 16, REAL.text_dim))
    plan = diffusion_forcing(REAL_FRAMES, REAL_FRAMES, 8, 8)
    settings = RunSettings(flow_table(8, 5.0), *REAL_LATENT, policy=POLICIES.make("every_nth", {"warmup_steps": 1}),
                           predictor=PREDICTORS.make(predictor))
    seconds = pass_seconds(Generation(model, plan, settings, {COND: [text]}))
    return skip_cost(seconds, f"dim {REAL.dim}, {REAL.layers} layers, 4680 tokens, bf16, {predictor}")


def bundled(bundle: Bundle, predictor: str) -> dict[str, Any]:
    wanted = request(8).accelerated(POLICIES.make("flowcache", {"threshold": 0.2}), PREDICTORS.make(predictor))
    batch = scenes(1, seed=1, held_out=True)
    with torch.inference_mode():
        from flowcache_core.demo.text import encode_scene

        texts = {name: [bundle.backbone.embed_text(encode_scene(scene).unsqueeze(0))] * 8
                 for name, scene in ((COND, batch[0]), (UNCOND, None))}
    return skip_cost(pass_seconds(Generation(bundle.backbone, wanted.plan, wanted.settings(), texts)),
                     f"bundled model, cond and uncond, fp32, {predictor}")


def skip_cost(seconds: dict[str, list[float]], what: str) -> dict[str, Any]:
    compute, reuse = median(seconds["compute"]), median(seconds["reuse"])
    return {"what": what, "computed_ms": round(1000 * compute, 3), "skipped_ms": round(1000 * reuse, 3),
            "skip_percent": round(100 * reuse / compute, 2), "passes": [len(v) for v in seconds.values()]}


def hook_share(bundle: Bundle, preset: str) -> dict[str, Any]:
    """Where our own code spends its time, in percent of the run."""
    batch = scenes(1, seed=2, held_out=True)
    run_batch(bundle, request(2), batch)
    _, trace = run_batch(bundle, request(8, preset=preset), batch)
    summary = trace.summary()
    percent = {part: 100 * summary[f"{part}_seconds"] / summary["seconds"] for part in ("hook", "kv", "compress")}
    return {"preset": preset, "bookkeeping_percent": round(percent["hook"] - percent["kv"] - percent["compress"], 2),
            "kv_percent": round(percent["kv"], 2), "hook_percent": round(percent["hook"], 2)}


def run() -> dict[str, Any]:
    bundle = Bundle.load()
    return save("overhead", {
        "skip": [bundled(bundle, p) for p in PREDICTORS.names()] + [real_width(p) for p in REAL_PREDICTORS],
        "hooks": [hook_share(bundle, preset) for preset in ("off", "fast")]})
