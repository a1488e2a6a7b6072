"""Options that several verbs share, and the request that they make."""

import argparse
import re
from dataclasses import replace

from ..per_chunk import parse_prompts
from ..profiles import Profile, profile_names
from ..sampling import PLANS, SCHEDULES, PlanRequest, RunRequest, plan_request
from ..sampling.schedule import switch_chunks
from ..text_file import TextFile
from .memory_options import KV_DTYPES, add_memory_options, build_budget, build_compression, own_memory
from .model_options import DEFAULT_PROFILE, add_model_options, choose_profile
from .reuse_options import choose_reuse, skipping_part
from .sparse_options import add_sparse_options, build_sparse

PROMPT = "a red circle moving right quickly in the second lane behind a wall"
PIXELS = 8   # a latent pixel covers 8 x 8 pixels of the Wan2.1 codec


def add_plan_options(parser: argparse.ArgumentParser, chunks: int = 8) -> None:
    group = parser.add_argument_group("schedule")
    group.add_argument("--profile", help=f"one of {', '.join(profile_names())}, or a .json file of your own (default: "
                       f"the one that --model is recognised as being for, or {DEFAULT_PROFILE})")
    group.add_argument("--chunks", type=int, default=chunks, help=f"chunks of the video (default {chunks})")
    group.add_argument("--latent-frames", type=int, help="latent frames instead of whole chunks (any number)")
    group.add_argument("--chunk-frames", type=int, help="latent frames a chunk (default from the profile)")
    group.add_argument("--steps", type=int, help="denoising steps a chunk (default from the profile)")
    group.add_argument("--plan", default=None, help=f"one of {', '.join(PLANS)} (default from the profile)")
    group.add_argument("--schedule", help=f"of diffusion forcing, instead of --plan: one of {', '.join(SCHEDULES)} "
                       "(rolling is experimental)")
    group.add_argument("--ar-step", type=int, help="rows between the starts of neighbouring chunks "
                       "(diffusion_forcing, dense)")
    group.add_argument("--window", type=int, help="chunks in flight (pipelined; default from the profile)")
    group.add_argument("--history", type=int, help="chunks that a chunk may look back to (default from the profile)")
    group.add_argument("--history-sink", type=int, help="first chunks that stay visible beside --history")
    group.add_argument("--ranges", metavar="N,N,...", help="chunks that a chunk sees in equal parts of its steps, the "
                       "noisiest first and itself included; release: those of MAGI-1's release, 5,4,3,2 (pipelined)")
    group.add_argument("--no-commit", action="store_true", help="no pass at zero noise for finished chunks")
    group.add_argument("--no-near-clean", action="store_true", help="no pass for the oldest chunk alone (pipelined)")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--prompt", default=PROMPT, help="one prompt, or one from a chunk on: '0: a ...; 4: a ...'")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--shift", type=float, help="of the noise levels (default from the profile)")
    group.add_argument("--guidance", type=float, help="classifier-free guidance, 1 is off (default from the profile)")
    group.add_argument("--fps", type=float, help="frames a second, told to networks that know rates (16 or 24; default "
                       "from the profile)")
    group.add_argument("--size", help="WIDTHxHEIGHT in pixels (default from the profile)")
    group.add_argument("--addnoise", type=float, metavar="T", help="how noisy given frames are shown to the network, 0 "
                       "to 1000; 20 is usual for long videos (default from the profile)")
    add_model_options(parser)
    add_memory_options(parser)
    add_sparse_options(parser)


def run_prompts(args: argparse.Namespace, chunks: int) -> tuple[str, ...]:
    """The prompt of every chunk: words, or names in a file of embedded ones."""
    if args.text_embeddings is None:
        return parse_prompts(args.prompt, chunks)
    return TextFile(args.text_embeddings).prompts(chunks)


def run_negative(args: argparse.Namespace) -> str:
    """The unconditional prompt."""
    return "" if args.text_embeddings is None else TextFile(args.text_embeddings).negative


def parse_size(text: str) -> tuple[int, int]:
    """`960x544` (width x height in pixels) as height and width of the latent."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    width, height = (int(found[1]), int(found[2])) if found else (0, 0)
    if not width or not height or width % (2 * PIXELS) or height % (2 * PIXELS):
        raise ValueError(f"--size {text!r}: expected WIDTHxHEIGHT in pixels, multiples of {2 * PIXELS}, as in 832x480")
    return height // PIXELS, width // PIXELS


def given_noise(args: argparse.Namespace, profile: Profile) -> float | None:
    """How noisy given frames are shown; MAGI-1 is told of its prefix in its own way."""
    if profile.family != "magi-1":
        return profile.addnoise if args.addnoise is None else args.addnoise
    if args.addnoise is not None:
        raise ValueError(f"--addnoise {args.addnoise} with profile {profile.name}: MAGI-1 sees given frames as they "
                         "are; leave it out")
    return None


def parse_ranges(text: str | None, profile: Profile) -> tuple[int, ...]:
    """`5,4,3,2`, or `release` for those of the profile, as numbers. Raises ValueError."""
    if text is None:
        return ()
    if text == "release" and not profile.ranges:
        raise ValueError(f"--ranges release with profile {profile.name}: its release has none; leave it out, or give "
                         "numbers")
    try:
        return profile.ranges if text == "release" else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--ranges {text!r}: expected whole numbers with commas between them, as in 5,4,3,2, or "
                         "release") from None


def build_schedule(args: argparse.Namespace, profile: Profile) -> PlanRequest:
    if args.chunks < 1:
        raise ValueError(f"--chunks {args.chunks}: expected at least 1")
    chunk_frames = profile.chunk_frames if args.chunk_frames is None else args.chunk_frames
    frames = args.chunks * chunk_frames if args.latent_frames is None else args.latent_frames
    chosen = choose_reuse(profile, args)
    made = plan_request(profile, frames, args.schedule, plan=args.plan, chunk_frames=args.chunk_frames,
                        steps=args.steps, ar_step=args.ar_step,
                        commit=False if args.no_commit or chosen.released else None, window=args.window,
                        history=args.history, sink=args.history_sink, ranges=parse_ranges(args.ranges, profile),
                        near_clean=not (args.no_near_clean or chosen.released))
    gathers = chosen.compression is not None and not own_memory(args)
    return replace(made, released=chosen.released, gathers=chosen.released and gathers)


def build_request(args: argparse.Namespace) -> RunRequest:
    """Raises ValueError for the first option that does not make sense, before any file is touched."""
    profile = choose_profile(args)
    schedule = build_schedule(args, profile)
    prompts = run_prompts(args, len(schedule.build().chunks))
    if profile.recache and schedule.name == "sequential":
        schedule = replace(schedule, switches=switch_chunks(prompts))
    chosen, part = choose_reuse(profile, args), skipping_part(args)
    own = own_memory(args)
    return RunRequest(profile, schedule.build(), prompts, args.seed,
                      profile.shift if args.shift is None else args.shift,
                      profile.guidance if args.guidance is None else args.guidance,
                      chosen.policy, chosen.predictor, build_budget(args) if own else chosen.budget,
                      build_compression(args) if own else chosen.compression,
                      negative=run_negative(args), note=chosen.note,
                      latent=parse_size(args.size) if args.size else None, fps=args.fps,
                      given_noise=given_noise(args, profile), sparse=build_sparse(args),
                      kv_dtype=KV_DTYPES.get(args.kv_dtype), kv_device=args.kv_device, reuse_from=part[0],
                      reuse_until=part[1], released=chosen.released)
