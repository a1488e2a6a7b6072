"""`calibrate`: one uncached run, and how sizes change from step to step in it, as a file for the policy magcache."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..calibrating import MagnitudeRecorder
from ..fingerprint import fingerprint
from ..reuse import POLICIES, PREDICTORS
from ..reuse.magnitudes import PREDICTORS as CALIBRATED
from .arguments import add_plan_options, add_run_options, build_request
from .reuse_options import WHOLE


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("calibrate", help="measure sizes from step to step for the policy magcache")
    add_run_options(parser)
    add_plan_options(parser, chunks=4)
    parser.add_argument("--predictor", default="residual", help=f"what will stand in: {' or '.join(CALIBRATED)} "
                        "(default residual)")
    parser.add_argument("--out", type=Path, default=Path("out/magnitudes.json"),
                        help="calibration file; use it as --policy magcache --set calibration=FILE")
    parser.set_defaults(run=run, preset=None, policy=None, threshold=None, settings=[], **WHOLE)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from .execute import models_for
    from .output import prepare_folder
    from .progress import ProgressLine

    predictor, args.predictor = args.predictor, None
    MagnitudeRecorder({}, 0, predictor)   # refuses others before anything is loaded
    prepare_folder(args.out.resolve().parent)
    request = build_request(args)
    models = models_for(args, request.profile, request.plan.num_steps)
    request = replace(request, policy=POLICIES.make("off"), predictor=PREDICTORS.make(predictor))
    generation, progress = request.generation(models.backbone, models.encoder), ProgressLine("calibrate")
    recorder = MagnitudeRecorder(generation.kept, request.plan.num_steps, predictor)

    def watch(done: Any) -> None:
        progress(done)
        recorder(done.decisions, dict(done.last.moves))

    try:
        generation.run(watch)
    finally:
        progress.end()
    table = request.settings().table
    found = recorder.magnitudes(tuple(table.sigmas[:-1]), fingerprint(models.backbone))
    found.save(args.out, provenance(args, request, predictor))
    drops = {stream: round(min(ratios), 4) for stream, ratios in found.ratios.items()}
    return {"calibration": str(args.out), "steps": found.steps, "predictor": predictor, "least_ratio": drops}


def provenance(args: argparse.Namespace, request: Any, predictor: str) -> dict[str, Any]:
    command = f"python -m flowcache_core calibrate --predictor {predictor} --chunks {len(request.plan.chunks)}"
    return {"command": command, "profile": request.profile.name, "steps": request.plan.num_steps,
            "shift": request.shift, "guidance": request.guidance, "seed": request.seed,
            "prompts": list(dict.fromkeys(request.prompts)),
            "model": args.model.name if args.model else "bundled"}
