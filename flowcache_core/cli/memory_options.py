"""Options of the KV cache: how much may live in it, and what is done where it is full."""

import argparse

import torch

from ..kv import MERGERS, SCORERS, Compression, KVBudget
from ..kv.compression import GRANULARITIES
from .request import parse_settings

KV_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn,
             "int8": torch.int8}
BESIDE_MERGER = "attention"   # scorer where only a merger is named


def add_memory_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("KV cache")
    group.add_argument("--kv-window", type=float, metavar="N", help="KV budget in chunks, all resident ones counted")
    group.add_argument("--kv-budget", metavar="AMOUNT", help="KV budget as '4 chunks', '1000 tokens', '64 MB', '1 GB'")
    group.add_argument("--kv-dtype", choices=tuple(KV_DTYPES), help="in what keys and values are stored (default: as "
                       "the network computes); the error of it is reported")
    group.add_argument("--kv-device", choices=("auto", "gpu", "cpu"), default="auto", help="where they lie; cpu: "
                       "in the host's memory, the next layer's copied ahead (default auto: by free memory)")
    group.add_argument("--kv-sink", type=int, default=0, help="first chunks that the budget keeps")
    group.add_argument("--kv-recent", type=int, default=0, help="last finished chunks that the budget keeps")
    group.add_argument("--kv-scorer", help=f"how cached tokens are valued when the budget asks for room: one of "
                       f"{', '.join(SCORERS.names())} (default: the oldest chunks leave)")
    group.add_argument("--kv-granularity", choices=GRANULARITIES, default="token", help="what stays or goes as a whole")
    group.add_argument("--kv-set", dest="kv_settings", action="append", default=[], metavar="NAME=VALUE",
                       help="a setting of the scorer")
    group.add_argument("--kv-merger", help=f"how cached tokens are joined before a scorer drops any: one of "
                       f"{', '.join(MERGERS.names())} (default: none; scorer then {BESIDE_MERGER})")
    group.add_argument("--kv-merge-set", dest="kv_merge_settings", action="append", default=[], metavar="NAME=VALUE",
                       help="a setting of the merger")


def own_memory(args: argparse.Namespace) -> bool:
    """Whether any option here asks for something else than the preset's memory."""
    return any(getattr(args, f"kv_{name}", None) is not None for name in ("window", "budget", "scorer", "merger"))


def build_budget(args: argparse.Namespace) -> KVBudget:
    if args.kv_window is not None and args.kv_budget is not None:
        raise ValueError("--kv-window and --kv-budget: give one of the two")
    if args.kv_budget is None:
        return KVBudget(args.kv_window, "chunks", args.kv_sink, args.kv_recent)
    words = args.kv_budget.split()
    try:
        amount, unit = float(words[0]), words[1]
    except (ValueError, IndexError):
        raise ValueError(f"--kv-budget {args.kv_budget!r}: expected a number and tokens, chunks, MB or GB") from None
    return KVBudget(amount, unit, args.kv_sink, args.kv_recent)


def build_compression(args: argparse.Namespace) -> Compression | None:
    for option, name, settings in (("scorer", args.kv_scorer, args.kv_settings),
                                   ("merger", args.kv_merger, args.kv_merge_settings)):
        if name is None and settings:
            given = "--kv-set" if option == "scorer" else "--kv-merge-set"
            raise ValueError(f"{given} {settings[0]}: a setting of a {option}; give --kv-{option} too")
        if name is not None and args.kv_window is None and args.kv_budget is None:
            raise ValueError(f"--kv-{option} {name}: nothing is compressed without a budget; give --kv-budget or "
                             "--kv-window")
    if args.kv_scorer is None and args.kv_merger is None:
        return None
    scorer = args.kv_scorer or BESIDE_MERGER
    merger = args.kv_merger and MERGERS.make(args.kv_merger, parse_settings(args.kv_merge_settings, MERGERS,
                                                                            args.kv_merger))
    return Compression(SCORERS.make(scorer, parse_settings(args.kv_settings, SCORERS, scorer)), args.kv_granularity,
                       merger=merger)
