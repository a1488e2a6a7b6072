"""Options of `generate` that say how long the video is and what it starts from or ends with."""

import argparse
from dataclasses import replace
from pathlib import Path

from ..profiles import Profile
from ..sampling import Sources, VideoRequest, latents_for, shown_frames, video_request
from .arguments import PIXELS, build_request, build_schedule, run_prompts
from .model_options import choose_profile


def add_source_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("length and given frames")
    group.add_argument("--pixel-frames", type=int, metavar="N", help="pixel frames of the video, any number, "
                       "instead of chunks or latent frames")
    group.add_argument("--image", type=Path, metavar="FILE", help="first frame of the video")
    group.add_argument("--end-image", type=Path, metavar="FILE", help="frame that the video is to end before")
    group.add_argument("--video", type=Path, metavar="FILE", help="video to continue; its last frames begin the result")
    add_window_options(group)


def add_window_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--base", type=int, metavar="N", help="pixel frames of a window, 4n + 1 (default from the "
                       "profile)")
    group.add_argument("--overlap", type=int, metavar="N", help="pixel frames that a window repeats, or that --video "
                       "gives, 4n + 1 (default from the profile)")


def asks_for_more(args: argparse.Namespace) -> bool:
    """Whether a run of one plan cannot do what is asked: frames are given, or there are several windows."""
    given = (args.pixel_frames, args.image, args.end_image, args.video, args.base, args.overlap)
    profile = choose_profile(args)
    if any(value is not None for value in given):
        return True
    frames = build_schedule(args, profile).frames
    return profile.base_frames is not None and frames > profile.base_frames and args.schedule != "rolling"


def in_latents(args: argparse.Namespace) -> argparse.Namespace:
    """The same options with the length in latent frames, where it is in pixel frames. Raises ValueError for both."""
    if args.pixel_frames is None:
        return args
    if args.latent_frames is not None:
        raise ValueError("--pixel-frames and --latent-frames: give one of the two")
    return argparse.Namespace(**{**vars(args), "latent_frames": latents_for(args.pixel_frames)})


def window_sizes(args: argparse.Namespace, profile: Profile) -> tuple[int | None, int]:
    """Latent frames of an outer window (None: all), and of what two of them share. Raises ValueError."""
    rolling = args.schedule == "rolling"
    if args.base is not None and rolling:
        raise ValueError(f"--base {args.base} with schedule rolling, which makes one window that moves along: leave it "
                         "out, or choose the schedule async, sync or dense")
    base = profile.base_frames if args.base is None else _latents(args.base, "--base")
    pixels = profile.overlap_pixel_frames if args.overlap is None else args.overlap
    overlap = 0 if not pixels else _latents(pixels, "--overlap")
    if args.overlap is not None and (base is None or rolling) and getattr(args, "video", None) is None:
        raise ValueError(f"--overlap {args.overlap}: the video is made in one window, so nothing is repeated; leave it "
                         "out" + ("" if rolling else ", or say with --base how long a window is"))
    return base, overlap


def build_video(args: argparse.Namespace) -> VideoRequest:
    """Raises ValueError for the first option that does not make sense; reads the files that are given."""
    profile = choose_profile(args)
    args = in_latents(args)
    base, overlap = window_sizes(args, profile)
    run = build_request(args)
    schedule = build_schedule(args, profile)
    last = shown_frames(max(overlap // schedule.chunk_frames, 1) * schedule.chunk_frames)
    sources, latent = read_sources(args, run.latent or profile.latent, last)
    made = video_request(replace(run, latent=latent), schedule, sources, base_frames=base, overlap_frames=overlap,
                         overlap=profile.overlap, pixel_frames=args.pixel_frames)
    return made.with_prompts(run_prompts(args, made.chunks))


def _latents(pixel_frames: int, name: str) -> int:
    if pixel_frames < 1 or (pixel_frames - 1) % 4:
        nearest = max(1, 4 * round((pixel_frames - 1) / 4) + 1)
        raise ValueError(f"{name} {pixel_frames}: expected 4n + 1 pixel frames, as in {nearest}")
    return latents_for(pixel_frames)


def read_sources(args: argparse.Namespace, latent: tuple[int, int], last: int) -> tuple[Sources, tuple[int, int]]:
    """Given pixels in the video's size, and that size: upright where what is given is. last: frames of a video."""
    from ..pixel_files import is_portrait, read_frames, to_pixels

    files = {"image": args.image, "end": args.end_image, "video": args.video}
    read = {name: read_frames(path, last if name == "video" else None)
            for name, path in files.items() if path is not None}
    lead = next(iter(read.values()), None)
    turned = lead is not None and is_portrait(lead) != (latent[0] > latent[1])
    if args.size is None and turned and latent[0] != latent[1]:
        latent = latent[::-1]
    size = (PIXELS * latent[0], PIXELS * latent[1])
    return Sources(**{name: to_pixels(frames if name == "video" else frames[:1], size)
                      for name, frames in read.items()}), latent
