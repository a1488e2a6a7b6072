"""Frames on disk: mp4 files that play everywhere, written chunk by chunk, and PNG pictures.

Frames are RGB uint8 `(T, H, W, 3)`. Nothing unfinished ever stands under the name that was asked for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import ModuleType, TracebackType

import numpy as np

from .report.canvas import opencv

CODEC, QUALITY = "libx264", "18"   # constant rate factor: 0 is lossless, 18 looks lossless
BT709 = 1                          # its number in the H.264 colour tags


def pyav() -> ModuleType:
    """The module av. Raises ImportError that names the remedy."""
    try:
        import av
    except ImportError as error:
        raise ImportError(f"PyAV cannot be imported ({error}): run 'pip install av' to write mp4 files") from error
    return av


def checked_frames(frames: np.ndarray) -> np.ndarray:
    """`frames`, where they are what this page's functions take. Raises ValueError otherwise."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames of {frames.dtype} {frames.shape}: expected uint8 (frames, height, width, 3)")
    return frames


def upscale(frames: np.ndarray, scale: int) -> np.ndarray:
    """Every pixel of `(..., H, W, 3)` becomes `scale x scale` pixels."""
    if scale < 1:
        raise ValueError(f"scale {scale}: expected a whole number of at least 1")
    return frames if scale == 1 else frames.repeat(scale, axis=-3).repeat(scale, axis=-2)


def _named(path: Path, suffix: str) -> Path:
    if Path(path).suffix.lower() != suffix:
        raise ValueError(f"file name {str(path)!r}: expected one that ends in {suffix}")
    return Path(path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns what the system says about a file into one sentence."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {str(path)!r} ({error.strerror or error}): choose a folder that exists, can be "
                      "written and has room") from error


class VideoWriter:
    """An mp4 (H.264, yuv420p, BT.709) that grows chunk by chunk: `with VideoWriter(path, fps) as v: v.append(frames)`.

    fps: frames per second. scale: whole-number enlargement without smoothing. Frames of odd size get their last row or
    column twice, since the format needs even sizes. Frames are written to `NAME.partial.mp4`, which becomes
    `path` when the block ends. Where it ends by an exception or interrupt, `path` stays as it was, and what was written
    so far is finished as a playable file under the partial name (removed if it has no frame).
    """

    def __init__(self, path: Path, fps: float, scale: int = 1) -> None:
        if not fps > 0:
            raise ValueError(f"{fps} frames per second: expected more than 0")
        if scale < 1:
            raise ValueError(f"scale {scale}: expected a whole number of at least 1")
        self.path, self.fps, self.scale = _named(path, ".mp4"), fps, scale
        self.partial = self.path.with_name(f"{self.path.stem}.partial.mp4")
        self.frames = 0

    def __enter__(self) -> "VideoWriter":
        av = pyav()
        with naming(self.path):
            self._file = av.open(str(self.partial), "w", format="mp4", options={"movflags": "faststart"})
        self._stream = None
        return self

    def _open_stream(self, height: int, width: int) -> None:
        stream = self._file.add_stream(CODEC, rate=Fraction(float(self.fps)).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = {"crf": QUALITY}
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        self._stream = stream

    def append(self, frames: np.ndarray) -> None:
        """Adds frames `(T, H, W, 3)`; all of the same size."""
        frames = upscale(checked_frames(frames), self.scale)
        if not len(frames):
            return
        frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
        height, width = frames.shape[1:3]
        if self._stream is None:
            self._open_stream(height, width)
        if (height, width) != (self._stream.height, self._stream.width):
            raise ValueError(f"frames of {width} x {height} in a video of {self._stream.width} x "
                             f"{self._stream.height}: all frames of a video must have one size")
        video_frame = pyav().VideoFrame
        with naming(self.path):
            for frame in frames:
                picture = video_frame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709")
                self._file.mux(self._stream.encode(picture))
                self.frames += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        try:
            with naming(self.path):
                if self._stream is not None:
                    self._file.mux(self._stream.encode())
                self._file.close()
                if kind is None and self.frames:
                    self.partial.replace(self.path)
        finally:
            if not self.frames:
                self.partial.unlink(missing_ok=True)
        if kind is None and not self.frames:
            raise ValueError(f"video of 0 frames: nothing to write to {str(self.path)!r}")


def write_video(path: Path, frames: np.ndarray, fps: float, scale: int = 1) -> None:
    """Writes frames `(T, H, W, 3)` at once, as `VideoWriter` does."""
    with VideoWriter(path, fps, scale) as writer:
        writer.append(frames)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Writes an RGB picture, uint8 `(H, W, 3)`; whole or not at all."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3 or not picture.size:
        raise ValueError(f"picture of {picture.dtype} {picture.shape}: expected uint8 (height, width, 3)")
    path = _named(path, ".png")
    cv2 = opencv()
    done, data = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR))
    if not done:
        raise OSError(f"cannot write {str(path)!r}: {picture.shape[1]} x {picture.shape[0]} is too large for a PNG")
    partial = path.with_name(path.name + ".partial")
    with naming(path):
        try:
            partial.write_bytes(data.tobytes())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
