"""`train`: a training session of the bundled model, from the committed weights."""

import argparse
import sys
from pathlib import Path
from typing import Any


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("train", help="train the bundled model on, from its committed weights")
    parser.add_argument("--minutes", type=float, required=True, help="wall time of the training loop")
    parser.add_argument("--what", choices=("model", "codec", "decoder"), default="model",
                        help="decoder: the codec's decoder alone, which leaves the latents as they are")
    parser.add_argument("--rate", type=float, default=None, help="peak learning rate (model 1e-3, codec 3e-3)")
    parser.add_argument("--pool", type=Path, default=Path("out/latent-pool"), help="folder of encoded clips")
    parser.add_argument("--shards", type=int, default=64, help="32 clips each; encoded first where they are missing")
    parser.add_argument("--new-text", action="store_true", help="draw the layers that read the prompt anew first")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from ..demo.train import train_codec_session, train_model_session

    if not args.minutes > 0 or args.shards < 1:
        raise ValueError(f"{args.minutes} minutes on {args.shards} shards: both must be more than 0")

    def echo(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    if args.what != "model":
        train_codec_session(args.minutes, args.rate or 3e-3, echo, args.what == "decoder")
    else:
        train_model_session(args.minutes, args.rate or 1e-3, args.pool, args.shards, echo, args.new_text)
    return {"what": args.what, "minutes": args.minutes}
