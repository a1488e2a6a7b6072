"""Videos beside one another."""

import numpy as np
import pytest

from flowcache_core.report import amplified_error, contact_sheet, side_by_side
from flowcache_core.report.sheets import LABEL_HEIGHT, PANEL_GAP


def video(value: int, frames: int = 5, height: int = 24, width: int = 32) -> np.ndarray:
    return np.full((frames, height, width, 3), value, np.uint8)


def test_error_is_black_where_equal_and_grows_brighter() -> None:
    reference, other = video(100), video(100)
    other[:, :, 8:16, 1] += 4
    other[:, :, 16:, 1] -= 40
    error = amplified_error(other, reference, gain=8).astype(int).sum(axis=-1)
    assert error[0, 0, 0] < 10 < error[0, 0, 8] < error[0, 0, 16]


def test_side_by_side_keeps_pixels() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (3, 10, 12, 3), np.uint8) for _ in range(2))
    out = side_by_side({"a": a, "b": b}, scale=2)
    assert out.shape == (3, LABEL_HEIGHT + 20, 2 * 24 + PANEL_GAP, 3)
    assert np.array_equal(out[:, LABEL_HEIGHT::2, :24:2], a)
    assert np.array_equal(out[:, LABEL_HEIGHT + 1::2, 24 + PANEL_GAP + 1::2], b)


def test_side_by_side_with_difference() -> None:
    a, b = video(100), video(110)
    out = side_by_side({"a": a, "b": b}, gain=4)
    assert np.array_equal(out[:, LABEL_HEIGHT:, 2 * (32 + PANEL_GAP):], amplified_error(b, a, 4))
    with pytest.raises(ValueError, match="second one"):
        side_by_side({"a": a}, gain=4)


def test_contact_sheet_shows_chosen_frames_enlarged() -> None:
    frames = np.stack([video(10 * t, 1)[0] for t in range(20)])
    sheet = contact_sheet({"off": frames, "fast": frames}, columns=3)
    for t in (0, 10, 19):
        assert (sheet == 10 * t).all(axis=-1).sum() >= 2 * 128 * 96
    assert not (sheet == 40).all(axis=-1).any()


def test_contact_sheet_of_a_short_video_has_all_frames() -> None:
    assert contact_sheet({"off": video(50, frames=2)}, columns=8).shape[1] < contact_sheet({"off": video(50)}).shape[1]


@pytest.mark.parametrize("function", [side_by_side, contact_sheet])
def test_videos_must_agree(function: object) -> None:
    with pytest.raises(ValueError, match="'a' .*'b'"):
        function({"a": video(1), "b": video(1, frames=4)})
    with pytest.raises(ValueError, match="expected uint8"):
        function({"a": video(1).astype(np.float32)})
    with pytest.raises(ValueError, match="0 videos"):
        function({})
