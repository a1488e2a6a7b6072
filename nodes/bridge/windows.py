"""The windows of a video: which there are, where their chunks are in it, and what each one is asked for."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...flowcache_core.plan import Window
from ...flowcache_core.profiles import Profile
from ...flowcache_core.sampling import profile_windows
from .run import AS_PROFILED, ChunkRequest, split


def windows_of(profile: Profile, order: str, chunk_frames: int, frames: int) -> tuple[Window, ...]:
    """Windows of a video of so many latent frames; one where the model sees it whole, or an order was chosen."""
    if order != AS_PROFILED:
        return (Window(0, frames, 0),)
    return profile_windows(profile, frames, chunk_frames or profile.chunk_frames)


def with_overlap(profile: Profile, order: str, pixel_frames: int) -> Profile:
    """The profile with so many pixel frames that a window repeats; 0 is its own. Raises ValueError."""
    if not pixel_frames:
        return profile
    if (pixel_frames - 1) % 4:
        near = pixel_frames - (pixel_frames - 1) % 4
        raise ValueError(f"overlap {pixel_frames}: expected 4n + 1 pixel frames; set {near} or {near + 4}")
    if order != AS_PROFILED or profile.base_frames is None:
        why = f"{profile.title}, which sees all of it" if profile.base_frames is None else f"schedule {order}"
        raise ValueError(f"overlap {pixel_frames} with {why}: the video is made in one window, so nothing is repeated; "
                         "set overlap to 0")
    return replace(profile, overlap_pixel_frames=pixel_frames)


def first_chunks(profile: Profile, chunk_frames: int, windows: Sequence[Window]) -> list[int]:
    """The number in the video of each window's first chunk, and last how many chunks the video has."""
    size, first = chunk_frames or profile.chunk_frames, [0]
    for window, after in zip(windows, [*windows[1:], Window(0, 0, 0)], strict=True):
        first.append(first[-1] + len(split(profile, chunk_frames, window.frames)) - after.prefix // size)
    return first


def window_requests(profile: Profile, request: ChunkRequest, windows: Sequence[Window]) -> list[ChunkRequest]:
    """What every window is asked for, as far as plans go: what later ones begin with is of the right length alone."""
    first = first_chunks(profile, request.chunk_frames, windows)
    return [part_of(request, first, n, torch.zeros(1, 1, window.prefix, 1, 1)) for n, window in enumerate(windows)]


def part_of(request: ChunkRequest, first: Sequence[int], number: int, prefix: Tensor | None) -> ChunkRequest:
    """What is asked of one window: the beginning of the first, the end of the last, and the prompts of its chunks."""
    prompts = {}
    for chunk, prompt in sorted(request.prompts.items()):
        prompts[max(0, chunk - first[number])] = prompt   # of those before it, the last one goes on
    made = replace(request, prompts=prompts, first_chunk=first[number], video_chunks=first[-1],
                   end_image=request.end_image if number == len(first) - 2 else None)
    return made if number == 0 else replace(made, prefix=prefix, start_image=None)
