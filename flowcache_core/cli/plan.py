"""`plan`: the schedule as text and picture, before anything is sampled."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..plan import ChunkPlan, Window, outer_windows
from ..profiles import Profile
from ..sampling import PlanRequest
from .arguments import add_plan_options, build_schedule
from .model_options import add_model_options, choose_profile, load_backbone
from .reuse_options import add_reuse_options, choose_reuse, skipping_part
from .source_options import add_window_options, window_sizes


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("plan", help="show a schedule: which chunk takes which step when")
    add_plan_options(parser)
    add_reuse_options(parser)
    add_window_options(parser.add_argument_group("windows"))
    parser.add_argument("--shift", type=float, help="of the noise levels (default from the profile)")
    add_model_options(parser)
    parser.add_argument("--out", type=Path, help="write the schedule as a PNG to this file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from ..report import plan_picture, plan_text
    from ..report.window_table import window_sentence, window_table
    from ..video import write_png

    profile = choose_profile(args)
    schedule = build_schedule(args, profile)
    windows = planned_windows(args, profile, schedule)
    plans = [window_plan(schedule, window) for window in windows]
    chunks = sum(len(p.chunks) - (p.prefix_chunks if n else 0) for n, p in enumerate(plans))
    if len(plans) > 1:
        streams = 1 if profile.guidance == 1 else 2
        calls = [streams * sum(1 for _ in plan.passes()) for plan in plans]   # none skipped
        print(f"{window_sentence(windows, chunks)}\n\n{window_table(windows, plans, calls)}")
    different = [n for n, plan in enumerate(plans) if plan not in plans[:n]]
    for n in different:
        print(plan_text(plans[n]) if len(plans) == 1 else f"\nwindow {n + 1}: {plan_text(plans[n])}")
    share = None
    if args.preset or args.policy or args.threshold or args.settings:
        text, share = foretold(args, plans[0], chunks)
        print(f"\n{text}" if len(plans) == 1 else f"\ndecisions of window 1:\n{text}")
    if args.out is not None:
        write_png(args.out, np.concatenate([plan_picture(plans[n]) for n in different]))
    return {"plan": plans[0].name, "chunks": chunks, "latent_frames": windows[-1].stop,
            "windows": [[w.start, w.frames, w.prefix] for w in windows], "rows": sum(len(p.rows) for p in plans),
            "passes": sum(len(list(p.passes())) for p in plans), "chunk_steps": sum(p.chunk_steps() for p in plans),
            "most_in_flight": max(p.most_in_flight() for p in plans), "foreseen_share": share,
            "picture": str(args.out) if args.out else None}


def planned_windows(args: argparse.Namespace, profile: Profile, schedule: PlanRequest) -> tuple[Window, ...]:
    """The outer windows in which `generate` makes the video; one where the model sees it whole. Raises ValueError."""
    base, overlap = window_sizes(args, profile)
    if base is None or schedule.base_chunks is not None:
        return (Window(0, schedule.frames, 0),)
    return outer_windows(schedule.frames, base, overlap, schedule.chunk_frames)


def window_plan(schedule: PlanRequest, window: Window) -> ChunkPlan:
    return replace(schedule, frames=window.frames, prefix_chunks=window.prefix // schedule.chunk_frames).build()


def foretold(args: argparse.Namespace, plan: ChunkPlan, chunks: int) -> tuple[str, float]:
    """What the policy will decide in every chunk of the plan, and the share of steps that it computes. chunks: of the
    whole video."""
    from ..fingerprint import fingerprint, same_network
    from ..forecast import foreseen
    from ..foresight import FORESEEN_STREAM
    from ..profiles.schedule import first_table, step_table
    from ..report.tables import decision_text
    from ..reuse.contract import RunFacts
    from ..run_settings import RunSettings

    profile = choose_profile(args)
    chosen, (start, end) = choose_reuse(profile, args), skipping_part(args)
    policy, predictor = chosen.policy, chosen.predictor
    policy.check(chunks)
    shift = profile.shift if args.shift is None else args.shift
    settings = RunSettings(step_table(profile, plan.num_steps, shift), *profile.latent, policy=policy,
                           predictor=predictor, first_table=first_table(profile, plan, shift), video_chunks=chunks,
                           reuse_from=start, reuse_until=end)
    model = load_backbone(args, profile, plan.num_steps)
    policy.check_run(RunFacts(chunks, settings.table.sigmas, model.sizes.layers, (FORESEEN_STREAM,), predictor.name,
                              predictor.stage, lambda other: same_network(other, fingerprint(model))))
    made = foreseen(plan, settings, model.time_modulation)
    decisions = [[d for _, d in sorted((s, d) for (c, s), d in made.items() if c == chunk)]
                 for chunk in range(len(plan.chunks))]
    return decision_text(decisions), round(sum(d.computes for d in made.values()) / len(made), 4)
