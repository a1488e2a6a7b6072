"""A video that is kept in parts: an mp4 for each, whole as soon as its last frame is there, and one of them all at the
end. A run can go on behind parts that are whole without their frames: each is encoded for itself."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np

from .video import VideoWriter, naming, pyav


class VideoParts:
    """As `VideoWriter`. ends: frames of the video when each part but the last is whole, ascending. Parts stand beside
    `path` as `window-0000.mp4` and so on, and stay there."""

    def __init__(self, path: Path, fps: float, scale: int, ends: Sequence[int]) -> None:
        self.path, self._fps, self._scale, self._ends = Path(path), fps, scale, tuple(ends)
        self._writer: VideoWriter | None = None
        self._number, self._at = 0, 0

    def part(self, number: int) -> Path:
        return self.path.with_name(f"window-{number:04d}.mp4")

    def kept(self) -> int:
        """How many parts, from the first on, are whole on the disk."""
        for number, (begin, end) in enumerate(zip((0, *self._ends), self._ends, strict=False)):
            if _frames(self.part(number)) != end - begin:
                return number
        return len(self._ends)

    def begin(self, number: int) -> None:
        """Frames begin with the first one of a part; this one and later ones are made anew. Before `append`."""
        self._number, self._at = number, (0, *self._ends)[number]
        for later in range(number, len(self._ends) + 1):
            self.part(later).unlink(missing_ok=True)

    def __enter__(self) -> "VideoParts":
        return self

    def append(self, frames: np.ndarray) -> None:
        """Adds frames `(T, H, W, 3)`; all of the same size."""
        while len(frames):
            end = self._ends[self._number] if self._number < len(self._ends) else self._at + len(frames)
            if self._writer is None:
                self._writer = VideoWriter(self.part(self._number), self._fps, self._scale).__enter__()
            own, frames = frames[:end - self._at], frames[end - self._at:]
            self._writer.append(own)
            self._at += len(own)
            if self._number < len(self._ends) and self._at == end:
                self._close()

    def _close(self, kind: type[BaseException] | None = None, error: BaseException | None = None,
               where: TracebackType | None = None) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            self._number += kind is None
            writer.__exit__(kind, error, where)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        open_part = self._writer and self._writer.partial
        self._close(kind, error, where)
        parts = [self.part(n) for n in range(self._number)]
        if kind is not None and open_part is not None and open_part.exists():
            parts.append(open_part)
        if not parts and kind is None:
            raise ValueError(f"video of 0 frames: nothing to write to {str(self.path)!r}")
        partial = self.path.with_name(f"{self.path.stem}.partial.mp4")
        if parts:
            join(parts, partial)
        if kind is None:
            partial.replace(self.path)
        elif open_part is not None:
            open_part.unlink(missing_ok=True)


def join(parts: Sequence[Path], path: Path) -> None:
    """One file of the frames of several, which `VideoWriter` made alike; nothing is encoded anew."""
    av, shift, target = pyav(), 0, None
    with naming(path), av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as out:
        for part in parts:
            with av.open(str(part)) as source:
                own = source.streams.video[0]
                target = target or out.add_stream_from_template(own)
                for packet in source.demux(own):
                    if packet.dts is None:   # the end
                        continue
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = target
                    out.mux(packet)
                shift += int(own.frames / Fraction(own.average_rate) / own.time_base)


def _frames(path: Path) -> int | None:
    """Whole frames in a video file; None where there is none that can be read."""
    av = pyav()
    try:
        with av.open(str(path)) as source:
            return sum(p.dts is not None and not p.is_corrupt for p in source.demux(source.streams.video[0]))
    except (OSError, av.error.FFmpegError, IndexError):
        return None
