"""`plan`: the schedule as text and picture, before anything is sampled."""

import argparse
from pathlib import Path
from typing import Any

from ..plan import ChunkPlan
from .arguments import add_plan_options, add_reuse_options, build_plan
from .model_options import add_model_options, choose_profile, load_backbone


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("plan", help="show a schedule: which chunk takes which step when")
    add_plan_options(parser)
    add_reuse_options(parser)
    parser.add_argument("--shift", type=float, help="of the noise levels (default from the profile)")
    add_model_options(parser)
    parser.add_argument("--out", type=Path, help="write the schedule as a PNG to this file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from ..report import plan_picture, plan_text
    from ..video import write_png

    plan = build_plan(args, choose_profile(args))
    print(plan_text(plan))
    share = None
    if args.preset or args.policy or args.threshold or args.settings:
        text, share = foreseen(args, plan)
        print(f"\n{text}")
    if args.out is not None:
        write_png(args.out, plan_picture(plan))
    return {"plan": plan.name, "chunks": len(plan.chunks), "latent_frames": plan.frames, "rows": len(plan.rows),
            "passes": sum(1 for _ in plan.passes()), "chunk_steps": plan.chunk_steps(),
            "most_in_flight": plan.most_in_flight(), "foreseen_share": share,
            "picture": str(args.out) if args.out else None}


def foreseen(args: argparse.Namespace, plan: ChunkPlan) -> tuple[str, float]:
    """What the policy will decide in every chunk, and the share of steps that it computes."""
    from ..fingerprint import fingerprint, same_network
    from ..foresight import FORESEEN_STREAM, foresee
    from ..profiles.schedule import step_table
    from ..report.tables import decision_text
    from ..reuse.contract import RunFacts
    from .request import choose_reuse

    profile = choose_profile(args)
    chosen = choose_reuse(profile, args.preset, args.policy, args.threshold, args.settings, args.predictor)
    policy, predictor = chosen.policy, chosen.predictor
    policy.check(len(plan.chunks))
    table = step_table(profile, plan.num_steps, profile.shift if args.shift is None else args.shift)
    model = load_backbone(args, profile, plan.num_steps)
    policy.check_run(RunFacts(len(plan.chunks), table.sigmas, model.sizes.layers, (FORESEEN_STREAM,), predictor.name,
                              predictor.stage, lambda other: same_network(other, fingerprint(model))))
    decisions = foresee(policy, table, len(plan.chunks), model.time_modulation, plan)
    computed = [decision.computes for chunk in decisions for decision in chunk]
    return decision_text(decisions), round(sum(computed) / len(computed), 4)
