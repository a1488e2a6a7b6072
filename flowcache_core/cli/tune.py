"""`tune`: finds the threshold for a wanted speed-up or PSNR and writes it as a preset file."""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..profiles import load_preset
from ..reuse import PREDICTORS
from ..reuse.policies.flowcache import FlowCache
from ..reuse.predictors import Predictor
from .arguments import add_plan_options, add_run_options, build_request
from .model_options import choose_profile
from .request import parse_settings
from .reuse_options import WHOLE

START = "balanced"   # preset whose settings, but for the threshold, are tuned


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("tune", help="find the threshold for a wanted speed-up or PSNR, write a preset file")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--speedup", type=float, help="wanted speed-up, as in 3")
    wanted.add_argument("--psnr", type=float, help="wanted PSNR in dB against the uncached run, as in 30")
    add_run_options(parser)
    add_plan_options(parser)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE",
                        help="any setting of the policy flowcache but its threshold (default: those of the "
                        f"profile's preset {START})")
    parser.add_argument("--predictor", help=f"one of {', '.join(PREDICTORS.names())} (default: that preset's)")
    parser.add_argument("--out", type=Path, default=Path("out/tuned.json"), help="preset file; use it as --preset FILE")
    parser.set_defaults(run=run, preset=None, policy=None, threshold=None, **WHOLE)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from ..metrics import json_number, psnr
    from ..reuse import POLICIES
    from ..threshold_prediction import Probe
    from ..tuning import Tuner, check_wanted
    from .demo import warm_up
    from .execute import models_for
    from .output import prepare_folder, to_frames

    check_wanted(args.speedup, args.psnr)
    words = parse_settings(args.settings, POLICIES, "flowcache")
    if "threshold" in words:
        raise ValueError("--set threshold: tune finds the threshold; leave it out")
    policy, predictor = starting_point(args, words)
    args.settings, args.predictor = [], None
    prepare_folder(args.out.resolve().parent)
    request = build_request(args)
    models = models_for(args, request.profile, request.plan.num_steps, needs_codec=True)
    warm_up(request, models)

    def sample(chosen: Any) -> tuple[Any, Any]:
        made = replace(request, policy=chosen, predictor=predictor).generation(models.backbone, models.encoder)
        latents = made.run()
        return made.trace, to_frames(models.codec.decode(latents))

    probe, truth = sample(Probe(of=policy))
    uncached, _ = sample(POLICIES.make("off"))

    def verify(chosen: Any) -> tuple[Any, float]:
        trace, frames = sample(chosen)
        quality = psnr(frames, truth)
        print(f"threshold {chosen.threshold}: {uncached.seconds / trace.seconds:.2f}x, {quality:.2f} dB")
        return trace, quality

    settings = request.settings()
    tuner = Tuner(probe, uncached, settings.table, policy, verify, settings.first_table)
    found = tuner.for_speedup(args.speedup) if args.speedup is not None else tuner.for_psnr(args.psnr)
    result = {"threshold": str(found.policy.threshold), "speedup": round(found.speedup, 3),
              "psnr_db": json_number(round(found.psnr_db, 2)), "computed_share": round(found.computed_share, 4)}
    write_preset(args, found.policy, predictor, {**result, "runs": len(tuner.trials)})
    return {**result, "preset": str(args.out)}


def starting_point(args: argparse.Namespace, words: dict[str, Any]) -> tuple[FlowCache, Predictor]:
    """What is tuned: the profile's preset, where that is FlowCache's, with what was asked for in place of its own."""
    preset = load_preset(choose_profile(args), START)
    known = isinstance(preset.policy, FlowCache)
    policy = replace(preset.policy, **words) if known else FlowCache(**words)
    if args.predictor is not None:
        return policy, PREDICTORS.make(args.predictor)
    return policy, preset.predictor if known else PREDICTORS.make("velocity")


def write_preset(args: argparse.Namespace, policy: FlowCache, predictor: Predictor, figures: dict[str, Any]) -> None:
    """The form of profiles/presets/*.json, with one preset that is named after the file."""
    wanted = f"--speedup {args.speedup:g}" if args.speedup is not None else f"--psnr {args.psnr:g}"
    provenance = {"command": f"python -m flowcache_core tune {wanted}", "chunks": args.chunks, "figures": figures}
    preset = {"policy": policy.name, "settings": policy.settings(), "predictor": predictor.name,
              "predictor_settings": asdict(predictor)}
    args.out.write_text(json.dumps({"profile": choose_profile(args).name, "provenance": provenance,
                                    "presets": {args.out.stem: preset}}, indent=2) + "\n")
