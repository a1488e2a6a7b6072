"""Outer windows: a video longer than the model's window, made window by window with an overlap (SkyReels-V2)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Latent frames `start .. start + frames - 1` of the video; the first `prefix` are those of the window before."""

    start: int
    frames: int
    prefix: int

    @property
    def stop(self) -> int:
        return self.start + self.frames


def outer_windows(frames: int, base_frames: int, overlap_frames: int, chunk_frames: int) -> tuple[Window, ...]:
    """Windows of at most `base_frames` latent frames that cover `frames`; any length works, the last may be short.

    The overlap is cut down to whole chunks, since a prefix is made of finished chunks. Raises ValueError where the
    overlap leaves no room for new frames or is shorter than a chunk.
    """
    if frames < 1 or base_frames < 1 or chunk_frames < 1:
        raise ValueError(f"{frames} frames in windows of {base_frames} with chunks of {chunk_frames}: all must be at "
                         "least 1")
    if frames <= base_frames:
        return (Window(0, frames, 0),)
    prefix = overlap_frames // chunk_frames * chunk_frames
    if not 0 < prefix < base_frames:
        overlap, chunk, base = (f"{n} latent frames ({max(0, 4 * n - 3)} pixel frames)"
                                for n in (overlap_frames, chunk_frames, base_frames))
        raise ValueError(f"overlap of {overlap}: expected at least a chunk, {chunk}, and less than the window, {base}")
    windows = [Window(0, base_frames, 0)]
    while windows[-1].stop < frames:
        start = windows[-1].stop - prefix
        windows.append(Window(start, min(base_frames, frames - start), prefix))
    return tuple(windows)
