"""A video in parts, against the same frames written without a stop."""

from pathlib import Path

import av
import numpy as np
import pytest

from flowcache_core.video_parts import VideoParts, join

ENDS = (17, 33)
FRAMES = np.stack([np.roll(np.random.default_rng(0).integers(0, 255, (40, 60, 3)), n, axis=1)
                   for n in range(45)]).astype(np.uint8)


def parts(folder: Path, fps: float = 24) -> VideoParts:
    folder.mkdir(exist_ok=True)
    return VideoParts(folder / "video.mp4", fps, 1, ENDS)


def written(folder: Path, fps: float = 24) -> bytes:
    with parts(folder, fps) as video:
        for n in range(0, len(FRAMES), 7):
            video.append(FRAMES[n:n + 7])
    return (folder / "video.mp4").read_bytes()


def stopped(folder: Path, frames: int) -> None:
    def write() -> None:
        with parts(folder) as video:
            video.append(FRAMES[:frames])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()


def read(path: Path) -> tuple[list[int], np.ndarray]:
    """Times and frames."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        found = [(frame.pts, frame.to_ndarray(format="rgb24")) for frame in file.decode(stream)]
        assert stream.frames == len(found) and stream.codec_context.color_primaries == 1
    return [time for time, _ in found], np.stack([frame for _, frame in found])


@pytest.mark.parametrize("fps", [16, 24, 29.97])
def test_the_whole_is_the_frames_of_its_parts_evenly_spaced(tmp_path: Path, fps: float) -> None:
    written(tmp_path, fps)
    times, frames = read(tmp_path / "video.mp4")
    own = [read(tmp_path / f"window-000{n}.mp4")[1] for n in range(3)]
    assert [len(part) for part in own] == [17, 16, 12] and np.array_equal(np.concatenate(own), frames)
    assert times[0] == 0 and len(set(np.diff(times))) == 1


@pytest.mark.parametrize(("frames", "kept"), [(5, 0), (17, 1), (20, 1), (33, 2), (40, 2)])
def test_going_on_behind_whole_parts_makes_the_same_video(tmp_path: Path, frames: int, kept: int) -> None:
    """The encoder itself does not give the same bytes every time, so only what is taken over is compared by bytes."""
    written(tmp_path / "whole")
    stopped(tmp_path / "cut", frames)
    assert len(read(tmp_path / "cut" / "video.partial.mp4")[1]) == frames
    assert not list((tmp_path / "cut").glob("window-*.partial.mp4"))
    before = taken(tmp_path / "cut")
    with parts(tmp_path / "cut") as video:
        assert video.kept() == kept == len(before)
        video.begin(kept)
        video.append(FRAMES[(0, *ENDS)[kept]:])
    made = taken(tmp_path / "cut")
    assert made[:kept] == before and len(made) == 3
    join([tmp_path / "cut" / f"window-000{n}.mp4" for n in range(3)], tmp_path / "joined.mp4")
    assert (tmp_path / "cut" / "video.mp4").read_bytes() == (tmp_path / "joined.mp4").read_bytes()
    (times, found), (evenly, whole) = (read(tmp_path / name / "video.mp4") for name in ("cut", "whole"))
    assert times == evenly and np.abs(found.astype(int) - whole).mean() < 2


def taken(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("window-*.mp4"))]


def test_a_damaged_or_missing_part_and_those_behind_it_are_not_kept(tmp_path: Path) -> None:
    written(tmp_path)
    first, path = taken(tmp_path)[0], tmp_path / "window-0001.mp4"
    data = path.read_bytes()
    for damage in (b"", b"no video", data[:len(data) // 2], data[:-1]):
        path.write_bytes(damage)
        assert parts(tmp_path).kept() == 1
    path.unlink()
    assert parts(tmp_path).kept() == 1
    with parts(tmp_path) as video:
        video.begin(1)
        assert not (tmp_path / "window-0002.mp4").exists()   # it may be of other chunks
        video.append(FRAMES[17:])
    assert taken(tmp_path)[0] == first and len(read(tmp_path / "video.mp4")[1]) == len(FRAMES)


def test_nothing_written_leaves_what_was_there(tmp_path: Path) -> None:
    whole = written(tmp_path)
    stopped(tmp_path, 0)
    assert (tmp_path / "video.mp4").read_bytes() == whole and not list(tmp_path.glob("*.partial.mp4"))
    with pytest.raises(ValueError, match="video of 0 frames"), parts(tmp_path / "new"):
        pass
