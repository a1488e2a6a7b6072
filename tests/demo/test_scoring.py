"""Validation of the task score: what must score high does, what must not does not."""

import numpy as np
import pytest
import torch

from flowcache_core.demo.bundle import load_codec
from flowcache_core.demo.scoring import mean_score, score_video
from flowcache_core.demo.train_codec import to_pixels
from flowcache_core.demo.world import (
    BACKGROUND,
    SIZE,
    WALL_SPAN,
    Mover,
    Scene,
    Start,
    centres,
    random_scene,
    random_starts,
    render,
)

FRAMES, CLIPS = 93, 12


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    made = [(scene, random_starts(scene, rng)) for scene in (random_scene(rng) for _ in range(CLIPS))]
    return [(scene, render(scene, starts, FRAMES)) for scene, starts in made]


def mean_total(pairs):
    return mean_score([score_video(frames, scene) for scene, frames in pairs]).total


def test_ground_truth(clips):
    assert mean_total(clips) >= 99


@pytest.mark.parametrize("frames", [45, 765])
def test_ground_truth_of_other_lengths(frames):
    rng = np.random.default_rng(1)
    scenes = [random_scene(rng) for _ in range(4)]
    assert mean_total([(s, render(s, random_starts(s, rng), frames)) for s in scenes]) >= 98


def test_ground_truth_through_the_codec(clips):
    codec, passed = load_codec(), []
    for scene, frames in clips[:6]:
        with torch.inference_mode():
            pixels = codec.decode(codec.encode(to_pixels(frames[:45]).unsqueeze(0)))[0]
        decoded = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
        passed.append((scene, decoded))
    assert mean_total(passed) >= 97


def shuffled(frames):
    return frames[np.random.default_rng(3).permutation(len(frames))]


CONTROLS = {"frozen": lambda frames: np.repeat(frames[:1], len(frames), axis=0), "shuffled": shuffled,
            "reversed colours": lambda frames: frames[..., [1, 2, 0]],
            "empty": lambda frames: np.broadcast_to(np.uint8(BACKGROUND), frames.shape).copy()}


@pytest.mark.parametrize("control", CONTROLS)
def test_controls_score_low(control, clips):
    assert mean_total([(scene, CONTROLS[control](frames)) for scene, frames in clips]) <= 30


def test_the_prompt_of_another_clip_scores_low(clips):
    scenes = [scene for scene, _ in clips]
    assert mean_total([(other, frames) for (_, frames), other in
                       zip(clips, [*scenes[1:], scenes[0]], strict=True)]) <= 30


def jittered(frames):
    rng = np.random.default_rng(4)
    return np.stack([np.roll(frame, tuple(rng.integers(-1, 2, 2)), axis=(0, 1)) for frame in frames])


def noisy(frames):
    noise = np.random.default_rng(5).normal(0, 8, frames.shape)
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


def blurred(frames):
    import cv2

    return np.stack([cv2.blur(frame, (3, 3)) for frame in frames])


@pytest.mark.parametrize("change", [jittered, noisy, blurred])
def test_small_faults_are_forgiven(change, clips):
    plain = [(scene, change(frames)) for scene, frames in clips if not (scene.wall and change is jittered)]
    assert mean_total(plain) >= 90


@pytest.mark.parametrize("changed", [{"shape": "square"}, {"colour": "blue"}])
def test_a_mover_that_comes_back_from_the_wall_as_another_loses(changed):
    mover, start = Mover("red", "circle", "right", "quickly"), Start(13, 40)
    scene = Scene((mover,), True)
    before = render(scene, (start,), FRAMES)
    after = render(Scene((Mover(**{**mover.__dict__, **changed}),), True), (start,), FRAMES)
    hidden = int(np.argmax(centres(mover, start, FRAMES)[:, 0] > SIZE / 2))
    assert WALL_SPAN[0] < SIZE / 2 < WALL_SPAN[1]
    assert score_video(before, scene).total >= 99
    assert score_video(np.concatenate([before[:hidden], after[hidden:]]), scene).total <= 70


def test_frames_of_another_size_are_refused():
    scene = Scene((Mover("red", "circle", "right", "quickly"),))
    with pytest.raises(ValueError, match=r"\(20, 64, 64, 3\).*96"):
        score_video(np.zeros((20, 64, 64, 3), np.uint8), scene)
    with pytest.raises(ValueError, match="3 frames"):
        score_video(np.zeros((3, SIZE, SIZE, 3), np.uint8), scene)
