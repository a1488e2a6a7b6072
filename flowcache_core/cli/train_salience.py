"""`train-salience`: a head that says which cached tokens later chunks will look at (`--kv-scorer pafu_kv`)."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("train-salience", help="train the salience head of the pafu_kv scorer")
    parser.add_argument("--clips", type=int, default=96, help="clips to train on (default 96)")
    parser.add_argument("--held-out", type=int, default=32, help="clips to measure on (default 32)")
    parser.add_argument("--steps", type=int, default=3000, help="of the optimiser (default 3000)")
    parser.add_argument("--pool", type=Path, default=Path("out/latent-pool"), help="folder of encoded clips, filled "
                        "where it has too few")
    parser.add_argument("--model", type=Path, help="a Wan-layout .safetensors instead of the bundled model")
    parser.add_argument("--out", type=Path, help="file of the head (default: the bundled one)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from ..demo.bundle import TRANSFORMER, load_codec, load_transformer
    from ..demo.latent_pool import SHARD_CLIPS, fill_pool
    from ..demo.train_salience import train_salience
    from ..kv.scorers.pafu_kv import BUNDLED
    from ..profiles import load_profile

    for name, value in (("--clips", args.clips), ("--held-out", args.held_out), ("--steps", args.steps)):
        if value < 1:
            raise ValueError(f"{name} {value}: expected at least 1")
    model, out = load_transformer(args.model or TRANSFORMER), args.out or BUNDLED
    fill_pool(load_codec(), args.pool, -(-(args.clips + args.held_out) // SHARD_CLIPS), seed=7)
    correlation = train_salience(model, args.pool, load_profile("demo").chunk_frames, args.clips, args.held_out,
                                 args.steps, out, lambda entry: print(json.dumps(entry), file=sys.stderr, flush=True))
    return {"head": str(out), "rank_correlation": round(correlation, 4), "clips": args.clips, "steps": args.steps}
