"""`learn`: finds the best schedule of computed steps for a model and a step count, and writes it to a file."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from .arguments import PROMPT, add_plan_options, add_run_options, build_request
from .reuse_options import WHOLE


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("learn", help="learn which steps to compute, write a schedule for the policy schedule")
    parser.add_argument("--share", type=float, required=True, help="most of all stream steps that may be computed, "
                        "as in 0.3")
    parser.add_argument("--derive", action="store_true", help="also let the unconditional stream be derived from the "
                        "conditional one at some steps (needs guidance)")
    add_run_options(parser)
    add_plan_options(parser, chunks=4)
    parser.add_argument("--predictor", default="taylor", help="what stands in at skipped steps: velocity, taylor "
                        "or taylor_corrected (default taylor)")
    parser.add_argument("--videos", type=int, default=3, help="videos to learn from, seeds counted up from --seed; "
                        "the bundled model gets other prompts too, unless --prompt is given (default 3)")
    parser.add_argument("--probes", type=int, default=0, help="steps at which one run each finds out what becomes "
                        "of an error; 0 (the default) takes all for equal")
    parser.add_argument("--runs", type=int, default=24, help="real runs of every video in which the planned schedule "
                        "is compared with others of its cost and improved; 0 takes it as planned (default 24)")
    parser.add_argument("--first-steps", type=int, default=2, help="first steps of a chunk that are computed whole")
    parser.add_argument("--last-steps", type=int, default=1, help="last steps of a chunk that are computed whole")
    parser.add_argument("--out", type=Path, default=Path("out/schedule.json"), help="schedule file; use it as --policy "
                        "schedule --set file=FILE --predictor PREDICTOR")
    parser.set_defaults(run=run, preset=None, policy=None, threshold=None, settings=[], **WHOLE)


def run(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from ..fingerprint import fingerprint
    from ..learning import Trial, learn_errors, reach_of
    from ..reuse import PREDICTORS
    from ..reuse.policies.off import Off
    from ..reuse.policies.schedule import Scheduled
    from ..reuse.schedules import Schedule
    from ..scheduling import Planner, even, refined
    from .execute import load_models
    from .output import prepare_folder

    predictor, args.predictor = PREDICTORS.make(args.predictor), None
    reach_of(predictor)
    if args.videos < 1 or args.probes < 0:
        raise ValueError(f"{args.videos} videos and {args.probes} probes: expected at least 1 video and 0 probes")
    prepare_folder(args.out.resolve().parent)
    request, models = build_request(args), load_models(args.model)
    settings = request.settings()
    requests = [replace(request, seed=request.seed + n, prompts=words)
                for n, words in enumerate(prompts(args, request))]

    def sample(policy: Any, video: int, stand_in: Any = None) -> torch.Tensor:
        made = replace(requests[video], policy=policy, predictor=stand_in or PREDICTORS.make("velocity"))
        print(f"video {video}: {policy.name}", flush=True)
        return made.generation(models.backbone, models.encoder).run()

    scale, first, last, prints = (settings.guide.strength, args.first_steps, args.last_steps,
                                  fingerprint(models.backbone))

    def schedule_of(actions: str, error: float = 0.0) -> Schedule:
        return Schedule(actions, settings.table.sigmas, settings.streams, scale, predictor.name, prints, error)

    errors = learn_errors(sample, args.videos, settings.table.sigmas, settings.streams, scale, predictor, args.probes)
    path = Planner(errors, first, last, args.derive).for_share(args.share)
    schedule, runs = schedule_of(path.actions, path.error), 0
    if args.runs:
        starts = [path.actions, Planner(errors, first, last).for_share(args.share).actions,
                  even(errors.count, errors.streams, args.share, first, last)]
        trial = Trial(lambda policy, video: sample(policy, video, predictor),
                      [sample(Off(), video) for video in range(args.videos)],
                      lambda actions: Scheduled(schedule=schedule_of(actions)))
        actions, error, runs = refined(starts, trial, args.runs, first, last)
        schedule = schedule_of(actions, error)
    schedule.save(args.out, {"command": f"python -m flowcache_core learn --share {args.share:g}"
                                        f"{' --derive' if args.derive else ''} --predictor {predictor.name}",
                             "videos": args.videos, "chunks": len(request.plan.chunks), "probes": args.probes,
                             "real_runs": runs, "planned": path.actions, "first_steps": first, "last_steps": last})
    print(f"{schedule.actions}\n{args.out}: {100 * schedule.share:.1f} % of the stream steps computed")
    return {"schedule": str(args.out), "actions": schedule.actions, "planned": path.actions,
            "computed_share": round(schedule.share, 4), "expected_error": schedule.expected, "real_runs": runs,
            "gains": [round(float(gain), 4) for gain in errors.gains]}


def prompts(args: argparse.Namespace, request: Any) -> list[tuple[str, ...]]:
    """The prompts of every video, one a chunk."""
    if args.prompt != PROMPT or args.model is not None or args.videos == 1:
        return [request.prompts] * args.videos
    import numpy as np

    from ..demo.text import describe
    from ..demo.world import random_scene

    rng = np.random.default_rng(args.seed)
    return [(describe(random_scene(rng, False)),) * len(request.prompts) for _ in range(args.videos)]
