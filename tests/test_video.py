"""Files of frames: what is written is read back, and nothing unfinished takes the name that was asked for."""

import builtins
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from flowcache_core.video import VideoWriter, pyav, upscale, write_png, write_video

RED, GREEN = (226, 52, 48), (46, 184, 72)


def two_colours(frames: int = 6, height: int = 32, width: int = 48) -> np.ndarray:
    video = np.empty((frames, height, width, 3), np.uint8)
    video[:, :, :width // 2], video[:, :, width // 2:] = RED, GREEN
    return video


def write_and_raise(path: Path, frames: np.ndarray, error: type[BaseException]) -> None:
    with VideoWriter(path, 16) as writer:
        writer.append(frames)
        raise error


def read(path: Path) -> tuple[np.ndarray, float]:
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]), float(stream.average_rate)


@pytest.mark.parametrize("fps", [16, 23.976])
def test_round_trip(tmp_path: Path, fps: float) -> None:
    write_video(tmp_path / "a.mp4", two_colours(), fps, scale=2)
    frames, rate = read(tmp_path / "a.mp4")
    assert frames.shape == (6, 64, 96, 3) and rate == pytest.approx(fps, rel=1e-4)
    assert np.abs(frames[:, 5:60, 5:40].astype(int) - RED).max() <= 6
    assert np.abs(frames[:, 5:60, 60:90].astype(int) - GREEN).max() <= 6
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_chunk_by_chunk(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 16) as writer:
        for count in (1, 4, 0, 2):
            writer.append(two_colours(count))
        assert writer.frames == 7 and not (tmp_path / "a.mp4").exists()
    assert len(read(tmp_path / "a.mp4")[0]) == 7


def test_odd_sizes_are_filled_up(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", two_colours(2, 31, 47), 16)
    assert read(tmp_path / "a.mp4")[0].shape == (2, 32, 48, 3)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_stopped_in_the_middle(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "a.mp4").write_bytes(b"an earlier video")
    with pytest.raises(error):
        write_and_raise(tmp_path / "a.mp4", two_colours(3), error)
    assert (tmp_path / "a.mp4").read_bytes() == b"an earlier video"
    assert len(read(tmp_path / "a.partial.mp4")[0]) == 3


def test_nothing_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="video of 0 frames"), VideoWriter(tmp_path / "a.mp4", 16):
        pass
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "a.mp4", 16):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_bad_input(tmp_path: Path) -> None:
    for bad, words in ((two_colours().astype(np.float32), "float32"), (two_colours()[0], r"\(32, 48, 3\)")):
        with pytest.raises(ValueError, match=words):
            write_video(tmp_path / "a.mp4", bad, 16)
    with pytest.raises(ValueError, match="0 frames per second"):
        write_video(tmp_path / "a.mp4", two_colours(), 0)
    with pytest.raises(ValueError, match="scale 0"):
        write_video(tmp_path / "a.mp4", two_colours(), 16, scale=0)
    with pytest.raises(ValueError, match=r"ends in \.mp4"):
        write_video(tmp_path / "a.gif", two_colours(), 16)
    with VideoWriter(tmp_path / "a.mp4", 16) as writer:
        writer.append(two_colours())
        with pytest.raises(ValueError, match="48 x 16 in a video of 48 x 32"):
            writer.append(two_colours(height=16))


def test_unwritable_paths(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"^cannot write .*missing.*a\.mp4.*choose a folder"):
        write_video(tmp_path / "missing" / "a.mp4", two_colours(), 16)
    with pytest.raises(OSError, match=r"^cannot write .*missing.*a\.png.*choose a folder"):
        write_png(tmp_path / "missing" / "a.png", two_colours()[0])


def test_upscale_repeats_pixels() -> None:
    video = np.arange(2 * 2 * 3 * 3, dtype=np.uint8).reshape(2, 2, 3, 3)
    large = upscale(video, 3)
    assert large.shape == (2, 6, 9, 3)
    assert all(np.array_equal(large[:, y::3, x::3], video) for y in range(3) for x in range(3))


def test_png_keeps_pixels_and_order_of_colours(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    write_png(tmp_path / "a.png", picture)
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], picture)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(ValueError, match=r"ends in \.png"):
        write_png(tmp_path / "a.jpg", picture)
    with pytest.raises(ValueError, match="float32"):
        write_png(tmp_path / "a.png", picture.astype(np.float32))


def test_missing_pyav_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **more: object) -> object:
        if name == "av":
            raise ImportError("No module named 'av'")
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install av"):
        pyav()
