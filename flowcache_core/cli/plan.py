"""`plan`: the schedule as text and picture, before anything is sampled."""

import argparse
from pathlib import Path
from typing import Any

from ..profiles import load_profile
from .arguments import PROFILE, add_plan_options, build_plan


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("plan", help="show a schedule: which chunk takes which step when")
    add_plan_options(parser)
    parser.add_argument("--out", type=Path, help="write the schedule as a PNG to this file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from ..report import plan_picture, plan_text
    from ..video import write_png

    plan = build_plan(args, load_profile(PROFILE))
    print(plan_text(plan))
    if args.out is not None:
        write_png(args.out, plan_picture(plan))
    return {"plan": plan.name, "chunks": len(plan.chunks), "latent_frames": plan.frames, "rows": len(plan.rows),
            "passes": sum(1 for _ in plan.passes()), "chunk_steps": plan.chunk_steps(),
            "most_in_flight": plan.most_in_flight(), "picture": str(args.out) if args.out else None}
