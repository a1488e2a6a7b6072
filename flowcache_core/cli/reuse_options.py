"""Options that say what may be skipped, and what stands in for it."""

import argparse
from dataclasses import replace

from ..profiles import Preset, Profile, load_preset
from ..reuse import POLICIES, PREDICTORS
from .request import parse_predictor, parse_settings

WHOLE = {"start_percent": 0.0, "end_percent": 1.0}   # of verbs without options for the part


def add_reuse_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("reuse")
    group.add_argument("--preset", help="off, quality, balanced, fast, another of the profile, or a file that tune "
                       "wrote (default off)")
    group.add_argument("--policy", help=f"one of {', '.join(POLICIES.names())}, instead of a preset")
    group.add_argument("--threshold", help="of the policy: 0.1, or '0:0.05, 1+:0.1', or '0.05->0.15'")
    group.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE",
                       help="any other setting of the policy")
    add_part_options(group)
    group.add_argument("--predictor", help=f"what stands in at a skipped step: one of "
                       f"{', '.join(PREDICTORS.names())}; with settings as in taylor:reach=2")


def add_part_options(group: argparse._ActionsContainer) -> None:
    group.add_argument("--start-percent", type=float, default=0.0, metavar="SHARE", help="share of a chunk's steps "
                       "before which nothing is skipped: 0.15 computes the first 15 %% (default 0)")
    group.add_argument("--end-percent", type=float, default=1.0, metavar="SHARE", help="share of a chunk's steps after "
                       "which nothing is skipped (default 1)")


def choose_reuse(profile: Profile, args: argparse.Namespace) -> Preset:
    """A preset, or a policy with its settings; the threshold and other settings need a policy that has them."""
    policy, pairs = args.policy, args.settings
    if policy is None and (args.threshold is not None or pairs):
        policy = "flowcache"
    if policy is None:
        chosen = load_preset(profile, args.preset or "off")
        return replace(chosen, predictor=parse_predictor(args.predictor)) if args.predictor else chosen
    if args.preset is not None:
        raise ValueError(f"preset {args.preset!r} together with policy {policy!r}: give one of the two")
    if args.threshold is not None:
        pairs = [*pairs, f"threshold={args.threshold}"]
    settings = parse_settings(pairs, POLICIES, policy)
    return Preset("", POLICIES.make(policy, settings), parse_predictor(args.predictor or "velocity"), {})


def skipping_part(args: argparse.Namespace) -> tuple[float, float]:
    """The part of a chunk's steps, 0..1, in which the policy may skip. Raises ValueError."""
    start, end = args.start_percent, args.end_percent
    if not 0 <= start <= end <= 1:
        raise ValueError(f"--start-percent {start:g} with --end-percent {end:g}: expected shares of the steps, 0 to 1, "
                         "the first one not above the second (0.15 is 15 %)")
    return start, end
