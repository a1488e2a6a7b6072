"""The words of a command across its resumes and extensions: a folder knows those that began it."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from ..run_folder import read_manifest
from ..sampling import RunRequest

FOLDERS = ("--out", "--resume", "--extend")   # say where, not what
LENGTHS = ("--chunks", "--latent-frames", "--pixel-frames")   # how long a video is


def without_folders(words: Sequence[str]) -> list[str]:
    """The words but for those that name a folder."""
    return without(words, FOLDERS)


def without(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """The words but for these options, which may be cut short, and what they are given."""
    kept: list[str] = []
    skip = False
    for word in words:
        head, equals, _ = word.partition("=")
        named = len(head) > 4 and any(option.startswith(head) for option in options)
        if not skip and not named:
            kept.append(word)
        skip = named and not equals and not skip
    return kept


def joined_words(args: argparse.Namespace, folder: Path | None) -> tuple[list[str], argparse.Namespace]:
    """All words of the run in `folder`, these behind those that began it, and what they mean."""
    if folder is None:
        return without_folders(args.words), args
    from . import build_parser

    words = [*read_manifest(folder)["words"], *without_folders(args.words)]
    joined = build_parser().parse_args(["generate", *words])
    joined.resume, joined.extend, joined.words = args.resume, args.extend, args.words
    if args.extend:   # the finished part is what it was; how much is added stands in the words at hand
        began = build_parser().parse_args(["generate", *read_manifest(folder)["words"]])
        for name in ("chunks", "latent_frames", "pixel_frames", "prompt"):
            setattr(joined, name, getattr(began, name))
    return words, joined


def extension(words: Sequence[str], args: argparse.Namespace,
              before: RunRequest) -> tuple[list[str], argparse.Namespace]:
    """Words and meaning of the whole video: the finished part and the chunks that are added."""
    from . import build_parser

    asked = build_parser().parse_args(["generate", *without_folders(args.words)])
    if asked.chunks < 1:
        raise ValueError(f"--chunks {asked.chunks}: expected at least 1 chunk to add")
    if asked.latent_frames is not None or asked.pixel_frames is not None:
        raise ValueError("--extend with --latent-frames or --pixel-frames: an extension adds whole chunks; say how "
                         "many with --chunks")
    last, size = before.plan.chunks[-1].frames, args.chunk_frames or before.profile.chunk_frames
    if last != size:
        raise ValueError(f"extension of {args.extend}: its last chunk has {last} of {size} latent frames; extend "
                         "videos of whole chunks")
    chunks = len(before.plan.chunks) + asked.chunks
    default = build_parser().parse_args(["generate"]).prompt
    added = asked.prompt if asked.prompt != default else ""
    words = without(words, LENGTHS)
    more = ["--chunks", str(chunks), "--prompt", _prompts(before.prompts, added)]
    if args.latent_frames is not None:
        more += ["--latent-frames", str(chunks * size)]
    whole = build_parser().parse_args(["generate", *words, *more])
    whole.extend, whole.resume = args.extend, None
    return [*words, *more], whole


def _prompts(before: Sequence[str], added: str) -> str:
    """One text for the prompts of finished chunks and of those that are added."""
    starts = [c for c in range(len(before)) if not c or before[c] != before[c - 1]]
    parts = [f"{c}: {before[c]}" for c in starts]
    if added and not re.match(r"\s*\d+\s*:", added):
        added = f"{len(before)}: {added}"
    first = re.match(r"\s*(\d+)", added)
    if first and int(first[1]) < len(before):
        raise ValueError(f"prompt {added!r}: chunks 0 to {len(before) - 1} are finished; begin with {len(before)}: or "
                         "later")
    return "; ".join([*parts, *([added] if added else [])])
