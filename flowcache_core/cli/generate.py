"""`generate`: one video from one prompt (or a prompt per chunk), with any policy and KV window."""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from ..sampling import advice
from ..trace import Trace
from .arguments import add_plan_options, add_reuse_options, add_run_options, build_request
from .source_options import add_source_options, asks_for_more


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("generate", help="make one video")
    add_run_options(parser)
    add_reuse_options(parser)
    add_plan_options(parser)
    add_source_options(parser)
    parser.add_argument("--out", type=Path, default=Path("out/generate"), help="folder for chunks, video and report")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from .execute import execute, load_models
    from .output import prepare_folder

    if asks_for_more(args):
        from .video import run_video

        return run_video(args)
    request = build_request(args)
    models = load_models(args.model)
    folder = prepare_folder(args.out)
    made = execute(request, models, folder, "generate")
    summary = made.trace.summary()
    print(f"{len(request.plan.chunks)} chunks in {summary['seconds']:.1f} s; computed {summary['computed']} of "
          f"{summary['chunk_steps']} chunk steps; KV peak {summary['kv_peak_bytes'] / 1e6:.1f} MB; {made.video}")
    said = [*made.trace.notes, request.note,
            *advice(request.profile, [request.plan], request.policy, args.schedule == "rolling")]
    print(cost_words(made.trace), *(f"{line}\n" for line in said if line), no_effect(made.trace), sep="", end="")
    return {**summary, "video": str(made.video), "trace": str(folder / "trace.json"), "report": str(made.report)}


def cost_words(trace: Trace) -> str:
    """Counted FLOPs, and steps whose signal was not finite, a line each; "" where there is nothing to say."""
    from ..report.header import flop_words
    from ..report.tables import not_finite_words

    s, words = trace.summary(), not_finite_words(trace)
    counted = f"counted {flop_words(s['flops'])} of {flop_words(s['whole_flops'])}\n" if s["whole_flops"] else ""
    return counted + (f"the policy's signal was not finite at {words}\n" if words else "")


def no_effect(trace: Trace) -> str:
    """A sentence for a policy that skipped nothing, with the most frequent reason; "" where there is nothing to say."""
    reasons = Counter(lane.reason for p in trace.passes for lane in p.lanes)
    if trace.settings["policy"] == "off" or trace.computed_share < 1 or not reasons:
        return ""
    reason, count = reasons.most_common(1)[0]
    return (f"policy {trace.settings['policy']} skipped nothing: {reason} ({count} of {sum(reasons.values())} "
            "decisions); raise its threshold, take more steps, or choose a plan with one chunk a pass\n")
