"""`demo`: the same long video without and with FlowCache, side by side, with a picture of what was skipped where."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..kv import KVBudget
from ..plan import sequential
from ..profiles import load_preset
from .arguments import add_plan_options, add_run_options, build_request
from .model_options import choose_profile
from .reuse_options import add_part_options


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("demo", help="make one long video twice, uncached and accelerated, and compare")
    add_run_options(parser)
    add_plan_options(parser, chunks=16)
    parser.add_argument("--preset", default="fast", help="of the accelerated run (default fast)")
    add_part_options(parser)
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for videos, pictures and traces")
    parser.set_defaults(run=run, policy=None, threshold=None, settings=[], predictor=None)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from .execute import execute, models_for
    from .output import prepare_folder

    preset = load_preset(choose_profile(args), args.preset)
    args.preset = None
    uncached = build_request(args)
    models = models_for(args, uncached.profile, uncached.plan.num_steps, needs_codec=True)
    reads = hasattr(models.encoder, "read") and len(set(uncached.prompts)) == 1
    scene = models.encoder.read(uncached.prompts[0]) if reads else None
    folders = [prepare_folder(args.out / name) for name in ("uncached", "accelerated")]
    warm_up(uncached, models)
    plain = execute(uncached, models, folders[0], "uncached", keep=True)
    fast = execute(uncached.accelerated(preset.policy, preset.predictor), models, folders[1], "accelerated", keep=True)
    result = figures(plain, fast, scene)
    result["videos"] = write_comparison(args.out, plain.frames, fast.frames, preset.name, uncached.profile.fps)
    result["report"] = str(fast.report)
    print_table(result, plain, fast, preset.name)
    return result


def warm_up(request: Any, models: Any) -> None:
    """A chunk of two steps (or those that the profile lists), so that the first run does not pay for the first
    calls."""
    frames, steps = request.plan.chunks[0].frames, len(request.profile.step_list) or 2
    short = replace(request, plan=sequential(frames, frames, steps), prompts=request.prompts[:1], budget=KVBudget())
    short.generation(models.backbone, models.encoder).run()


def figures(plain: Any, fast: Any, scene: Any) -> dict[str, Any]:
    from ..demo.scoring import score_video
    from ..metrics import json_number, psnr, ssim

    scores = [None if scene is None else round(score_video(made.frames, scene).total, 1) for made in (plain, fast)]
    return {"seconds_uncached": round(plain.trace.seconds, 2), "seconds_accelerated": round(fast.trace.seconds, 2),
            "speedup": round(plain.trace.seconds / fast.trace.seconds, 2),
            "computed_share": round(fast.trace.computed_share, 4),
            **{f"flops_{name}": made.trace.summary()["flops"] for name, made in
               (("uncached", plain), ("accelerated", fast))}, "not_finite": len(fast.trace.not_finite()),
            "psnr_db": json_number(round(psnr(fast.frames, plain.frames), 2)),
            "ssim": round(ssim(fast.frames, plain.frames), 4), "score_uncached": scores[0],
            "score_accelerated": scores[1], "kv_peak_bytes": fast.trace.kv_peak_bytes}


def write_comparison(folder: Path, plain: np.ndarray, fast: np.ndarray, preset: str, fps: float) -> dict[str, str]:
    from ..report import contact_sheet, side_by_side
    from ..video import write_png, write_video

    videos = {"uncached": plain, preset: fast}
    paths = {name: str(folder / name / "video.mp4") for name in ("uncached", "accelerated")}
    write_video(folder / "side_by_side.mp4", side_by_side(videos, 4, gain=4), fps)
    write_png(folder / "side_by_side.png", contact_sheet(videos, 10))
    return {**paths, "side_by_side": str(folder / "side_by_side.mp4"), "sheet": str(folder / "side_by_side.png")}


def print_table(result: dict[str, Any], plain: Any, fast: Any, preset: str) -> None:
    from ..report import comparison_table

    rows = []
    for name, made, quality, score in (("uncached", plain, None, result["score_uncached"]),
                                       (preset, fast, result["psnr_db"], result["score_accelerated"])):
        summary = made.trace.summary()
        rows.append({"run": name, "seconds": made.trace.seconds, "model calls": summary["model_calls"],
                     "computed": made.trace.computed_share, "TFLOPs": summary["flops"] / 1e12,
                     "KV MB": made.trace.kv_peak_bytes / 1e6, "PSNR dB": quality, "task score": score})
    print(comparison_table(rows))
    print(f"\n{result['speedup']}x faster, measured. Videos: {result['videos']['side_by_side']}; "
          f"what was skipped: {result['report']}")
