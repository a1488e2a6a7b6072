"""Measures of likeness, against values computed by hand."""

import json
import math

import numpy as np
import pytest

from flowcache_core.metrics import compare, json_number, moving_pixels, psnr, psnr_moving, ssim


def video(value: int, frames: int = 3, size: int = 16) -> np.ndarray:
    return np.full((frames, size, size, 3), value, np.uint8)


@pytest.fixture
def noisy() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 16, 20, 3), np.uint8)


def test_psnr_is_of_one_error_over_all_frames() -> None:
    reference, other = video(100, frames=2), video(100, frames=2)
    other[1] += 10   # mean squared error 100 in one of two frames: 50 in all
    assert psnr(other, reference) == pytest.approx(10 * math.log10(255**2 / 50))
    assert psnr(reference, other) == psnr(other, reference)


def test_psnr_of_extremes() -> None:
    assert psnr(video(7), video(7)) == math.inf
    assert psnr(video(0), video(255)) == pytest.approx(0.0)


def test_floating_point_is_in_0_to_1(noisy: np.ndarray) -> None:
    other = np.roll(noisy, 1, axis=2)
    as_floats = [v.astype(np.float64) / 255 for v in (other, noisy)]
    assert psnr(*as_floats) == pytest.approx(psnr(other, noisy))
    assert ssim(*as_floats) == pytest.approx(ssim(other, noisy))


def test_moving_pixels_are_those_that_change_and_their_surroundings() -> None:
    reference = video(50, frames=4)
    reference[2, 8, 8, 0] = 90     # changes from frame 1 to 2 and back in 3
    reference[1, 2, 2] += 8        # too little to count
    moving = moving_pixels(reference, radius=2)
    assert not moving[0].any()
    for frame in moving[1:]:
        assert frame[6:11, 6:11].all() and frame.sum() == 25


def test_psnr_moving_looks_there_alone() -> None:
    reference = video(50, frames=2)
    reference[1, 8, 8] = 200
    other = reference.copy()
    other[:, 0, 0] = 255           # far from what moves
    assert psnr_moving(other, reference) == math.inf
    other[0, 8, 8, 1] += 10        # one of 2 frames x 25 pixels x 3 channels
    assert psnr_moving(other, reference) == pytest.approx(10 * math.log10(255**2 * 150 / 100))
    assert math.isnan(psnr_moving(video(1), video(1)))


def test_ssim_of_identical_is_one(noisy: np.ndarray) -> None:
    assert ssim(noisy, noisy) == pytest.approx(1.0)


def test_ssim_of_flat_frames_is_the_luminance_term() -> None:
    c1 = (0.01 * 255) ** 2
    assert ssim(video(120), video(100)) == pytest.approx((2 * 120 * 100 + c1) / (120**2 + 100**2 + c1))


def test_ssim_of_one_window_by_hand() -> None:
    """Frames of 11 x 11 have room for one window: weighted moments say it all."""
    rng = np.random.default_rng(1)
    x, y = (rng.integers(0, 256, (1, 11, 11, 3), np.uint8) for _ in range(2))
    bell = np.exp(-np.arange(-5, 6) ** 2 / (2 * 1.5**2))
    weights = (np.outer(bell, bell) / bell.sum() ** 2)[..., None]
    mean = {n: (weights * v).sum((0, 1)) for n, v in (("x", x[0]), ("y", y[0]))}
    a, b = x[0] - mean["x"], y[0] - mean["y"]
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean["x"] * mean["y"] + c1) / (mean["x"] ** 2 + mean["y"] ** 2 + c1)
    structure = (2 * (weights * a * b).sum((0, 1)) + c2) / ((weights * (a**2 + b**2)).sum((0, 1)) + c2)
    assert ssim(x, y) == pytest.approx(float((luminance * structure).mean()))


@pytest.mark.parametrize("measure", [psnr, psnr_moving, ssim, compare])
def test_videos_that_cannot_be_compared(measure: object, noisy: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(2, 16, 20, 3\) and \(3, 16, 20, 3\)"):
        measure(noisy[:2], noisy)
    with pytest.raises(ValueError, match="float64 and uint8"):
        measure(noisy / 255, noisy)
    with pytest.raises(ValueError, match="int64"):
        measure(noisy.astype(np.int64), noisy)
    with pytest.raises(ValueError, match="expected \\(frames, height, width, 3\\)"):
        measure(noisy[0], noisy[0])


def test_ssim_needs_room() -> None:
    with pytest.raises(ValueError, match="8 x 8"):
        ssim(video(1, size=8), video(1, size=8))


def test_json_numbers() -> None:
    assert json_number(math.inf) is None and json_number(math.nan) is None and json_number(31.5) == 31.5
    assert json_number(math.inf, cap=100.0) == 100.0 and json_number(-math.inf, cap=100.0) == -100.0


def test_identical_videos_have_valid_json(noisy: np.ndarray) -> None:
    text = json.dumps(compare(noisy, noisy).to_json(), allow_nan=False)
    assert json.loads(text) == {"psnr": None, "psnr_moving": None, "ssim": pytest.approx(1.0)}
