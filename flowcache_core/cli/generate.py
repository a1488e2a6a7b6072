"""`generate`: one video from one prompt (or a prompt per chunk), with any policy and KV window; or the rest of one."""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from ..sampling import advice
from ..trace import Trace
from .arguments import add_plan_options, add_run_options, build_request
from .reuse_options import add_reuse_options
from .source_options import add_source_options, asks_for_more, in_latents

OUT = Path("out/generate")
LATENTS_ONLY = "no codec, so the latents are the result: {}; --vae FILE makes a video of them"


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("generate", help="make one video, go on with an interrupted one, or extend one")
    add_run_options(parser)
    add_reuse_options(parser)
    add_plan_options(parser)
    add_source_options(parser)
    group = parser.add_argument_group("folder")
    group.add_argument("--out", type=Path, default=OUT, help=f"folder for chunks, video and report (default {OUT})")
    group.add_argument("--resume", type=Path, metavar="DIR", help="go on with the interrupted run of a folder; its "
                       "options are known")
    group.add_argument("--extend", type=Path, metavar="DIR", help="add --chunks chunks to the finished video of a "
                       "folder; --prompt is for those")
    group.add_argument("--state", choices=("disk", "none"), default="disk", help="none: write no run state; a resume "
                       "then makes the keys of finished chunks again, and not the same bits")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from .begin import extended, new_run, resumed
    from .execute import execute, models_for
    from .output import prepare_folder
    from .words import extension, joined_words, without_folders

    if args.resume and args.extend:
        raise ValueError("--resume and --extend: give one of the two")
    if not (args.resume or args.extend) and asks_for_more(args):
        from .video import run_video

        return run_video(args, without_folders(args.words), prepare_folder(args.out), None)
    folder = prepare_folder(args.out) if not (args.resume or args.extend) else args.resume or args.extend
    words, args = joined_words(args, folder if args.resume or args.extend else None)
    before, began = None, args
    if args.extend:
        before = build_request(in_latents(args))
        words, args = extension(words, args, before)
    if asks_for_more(args):
        from .video import run_video

        return run_video(args, words, folder, began if before else None)
    request = build_request(args)
    models = models_for(args, request.profile, request.plan.num_steps)
    common = (request, models, folder, words, args.state == "disk")
    if before is not None:
        begun = extended(*common, before)
    else:
        begun = resumed(*common) if args.resume else new_run(*common)
    made = execute(request, models, folder, "generate", begun=begun)
    rolling = args.schedule == "rolling"
    return told(made, begun, [request.note, *advice(request.profile, [request.plan], request.policy, rolling)])


def told(made: Any, begun: Any, said: list[str]) -> dict[str, Any]:
    """Says what was made, and what else there is to say; returns it as the last line wants it."""
    summary, home = made.trace.summary(), begun.home
    print(f"{home.chunks} chunks in {summary['seconds']:.1f} s; computed {summary['computed']} of "
          f"{summary['chunk_steps']} chunk steps; KV peak {summary['kv_peak_bytes'] / 1e6:.1f} MB; run state "
          f"{home.state_bytes / 1e6:.1f} MB; "
          f"{made.video or LATENTS_ONLY.format(home.path)}")
    lines = [f"{line}\n" for line in (*said, *made.trace.notes) if line]
    print(cost_words(made.trace), *lines, no_effect(made.trace), sep="", end="")
    return {**summary, "video": made.video and str(made.video), "trace": str(home.path / "trace.json"),
            "report": str(made.report), "state_bytes": home.state_bytes}


def cost_words(trace: Trace) -> str:
    """Counted FLOPs, and steps whose signal was not finite, a line each; "" where there is nothing to say."""
    from ..report.header import flop_words
    from ..report.tables import not_finite_words

    s, words = trace.summary(), not_finite_words(trace)
    counted = f"counted {flop_words(s['flops'])} of {flop_words(s['whole_flops'])}\n" if s["whole_flops"] else ""
    stale = s["stale_steps"]
    if stale and stale["most"]:
        counted += (f"keys that chunks show to others: {stale['mean']:.1f} steps old on average, {stale['most']} at "
                    f"most, {stale['finished']} at most when finished\n")
    return counted + (f"the policy's signal was not finite at {words}\n" if words else "")


def no_effect(trace: Trace) -> str:
    """A sentence for a policy that skipped nothing, with the most frequent reason; "" where there is nothing to say."""
    reasons = Counter(lane.reason for p in trace.passes for lane in p.lanes)
    if trace.settings["policy"] == "off" or trace.computed_share < 1 or not reasons:
        return ""
    reason, count = reasons.most_common(1)[0]
    return (f"policy {trace.settings['policy']} skipped nothing: {reason} ({count} of {sum(reasons.values())} "
            "decisions); raise its threshold, take more steps, or choose a plan with one chunk a pass\n")
