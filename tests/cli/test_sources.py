"""`generate` with given frames, windows and any number of pixel frames."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flowcache_core.backbones.wan import WanConfig, WanTransformer
from flowcache_core.cli import main
from flowcache_core.demo.bundle import load_codec
from flowcache_core.pixel_files import read_frames, to_pixels
from flowcache_core.run_folder import RunFolder
from flowcache_core.sampling.showing import Showing
from flowcache_core.trace import load_trace
from flowcache_core.video import write_png, write_video
from tests.cli.conftest import profile_file

QUICK = ["--steps", "2"]


def pattern(count: int, height: int = 96, width: int = 96, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).integers(0, 255, (count, height // 16, width // 16, 3), dtype=np.uint8)
    return rows.repeat(16, axis=1).repeat(16, axis=2)


@pytest.fixture
def generate(tiny_model, tmp_path, capsys):
    def run(*words: str) -> dict:
        code = main(["generate", "--model", str(tiny_model), *QUICK, "--out", str(tmp_path / "out"), *words])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return {**json.loads(captured.out.splitlines()[-1]), "said": captured.out}
    return run


def chunks(folder: Path) -> list[torch.Tensor]:
    return [load_file(path)["latent"] for path in sorted(folder.glob("chunk-*.safetensors"))]


@pytest.mark.parametrize(("pixel_frames", "windows"), [(20, 1), (42, 3)])
def test_windows_of_any_length(generate, tmp_path, pixel_frames, windows):
    """Windows of 21 pixel frames that repeat 9: chunks of 3 latent frames."""
    made = generate("--pixel-frames", str(pixel_frames), "--base", "21", "--overlap", "9")
    assert len(made["windows"]) == windows and len(read_frames(tmp_path / "out" / "video.mp4")) == pixel_frames
    saved = chunks(tmp_path / "out")
    assert sum(latent.shape[2] for latent in saved) == -(-(pixel_frames - 1) // 4) + 1
    trace = load_trace(tmp_path / "out" / "trace.json")
    assert {lane.chunk for p in trace.passes for lane in p.lanes} == set(range(len(saved)))


def test_an_image_is_the_first_frame_and_is_resized(generate, tmp_path):
    picture = pattern(1, 48, 48)
    write_png(tmp_path / "start.png", picture[0])
    generate("--profile", profile_file(tmp_path, image="per_frame"), "--image", str(tmp_path / "start.png"), "--chunks",
             "2")
    expected = load_codec().encode(to_pixels(picture, (96, 96)))
    assert torch.equal(chunks(tmp_path / "out")[0][:, :, :1], expected)


def test_a_video_is_continued_and_an_end_image_is_taken(generate, tmp_path):
    write_video(tmp_path / "start.mp4", pattern(1).repeat(15, axis=0), 16)
    write_png(tmp_path / "end.png", pattern(1, seed=1)[0])
    made = generate("--video", str(tmp_path / "start.mp4"), "--overlap", "9", "--chunks", "3", "--schedule", "sync")
    first = chunks(tmp_path / "out")
    expected = load_codec().encode(to_pixels(read_frames(tmp_path / "start.mp4", 9), (96, 96)))
    assert torch.equal(first[0], expected) and made["windows"] == [[0, 9, 3]]
    generate("--video", str(tmp_path / "start.mp4"), "--overlap", "9", "--chunks", "3", "--schedule", "sync",
             "--end-image", str(tmp_path / "end.png"))
    ended = chunks(tmp_path / "out")
    assert torch.equal(ended[0], first[0]) and not torch.allclose(ended[2], first[2], atol=1e-4)


@pytest.mark.parametrize("lost", [False, True])
def test_an_interrupted_video_of_windows_goes_on_to_the_same_bits(generate, tiny_model, tmp_path, capsys, monkeypatch,
                                                                  lost):
    words = ["--pixel-frames", "42", "--base", "21", "--overlap", "9"]
    generate(*words)
    whole, video = chunks(tmp_path / "out"), read_frames(tmp_path / "out" / "video.mp4")
    save, folder = RunFolder.save_state, tmp_path / "stopped"

    def stop(self, state, last=False):
        save(self, state, last)
        if len(self.saved) == 3:   # in the second window
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_state", stop)
        assert main(["generate", "--model", str(tiny_model), *QUICK, *words, "--out", str(folder)]) == 130
    assert f"3 finished chunks kept in {folder}; go on with --resume {folder}" in capsys.readouterr().err
    begun, begin = [], Showing.begin
    monkeypatch.setattr(Showing, "begin", lambda self, number, *rest, **more: (
        begun.append(number), begin(self, number, *rest, **more)))
    if lost:
        (folder / "window-0000.mp4").unlink()
    assert main(["generate", "--resume", str(folder)]) == 0
    assert begun == ([0, 1, 2] if lost else [1, 2])   # windows that were decoded
    assert (folder / "video.mp4").read_bytes() == (tmp_path / "out" / "video.mp4").read_bytes()
    assert all(torch.equal(a, b) for a, b in zip(chunks(folder), whole, strict=True))
    assert np.array_equal(read_frames(folder / "video.mp4"), video)
    capsys.readouterr()
    assert main(["generate", "--resume", str(folder), "--seed", "5"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_a_size_and_a_portrait_image(generate, tmp_path):
    write_png(tmp_path / "tall.png", pattern(1, 64, 32)[0])
    profile = profile_file(tmp_path, image="per_frame", latent=[8, 12])
    generate("--profile", profile, "--image", str(tmp_path / "tall.png"), "--chunks", "1")
    assert chunks(tmp_path / "out")[0].shape[3:] == (12, 8)
    generate("--size", "64x32", "--chunks", "1")
    assert chunks(tmp_path / "out")[0].shape[3:] == (4, 8)


@pytest.mark.parametrize(("schedule", "said"), [("dense", "generate"), ("rolling", "rolling is experimental")])
def test_schedules(generate, schedule, said):
    assert said in generate("--schedule", schedule, "--chunks", "2")["said"]


def test_a_rate_is_told_to_a_model_that_knows_rates(tmp_path, capsys):
    torch.manual_seed(0)
    path, made = tmp_path / "rates.safetensors", []
    save_file(WanTransformer(WanConfig(dim=128, layers=1, ffn=64, heads=1, fps=True)).state_dict(), path)
    for fps in ("16", "24"):
        out = tmp_path / fps
        assert main(["generate", "--model", str(path), *QUICK, "--chunks", "1", "--fps", fps, "--out", str(out)]) == 0
        made.append(chunks(out)[0])
    capsys.readouterr()
    assert not torch.allclose(*made, atol=1e-4)


def test_few_steps_say_that_a_policy_has_little_to_skip(generate, tmp_path):
    profile = profile_file(tmp_path, steps=2, step_list=[1000, 500], solver="renoise", plan="sequential", guidance=1.0)
    said = generate("--profile", profile, "--policy", "every_nth", "--chunks", "2")["said"]
    assert "at most 1.5x" in said
    assert "at most" not in generate("--profile", profile, "--chunks", "2")["said"]


@pytest.mark.parametrize(("words", "expected"), [
    (["--image", "nowhere.png"], ["nowhere.png", "no such file"]),
    (["--image", __file__], ["no picture or video"]),
    (["--pixel-frames", "0"], ["0 pixel frames"]),
    (["--pixel-frames", "9", "--latent-frames", "3"], ["one of the two"]),
    (["--base", "20"], ["--base 20", "21"]), (["--overlap", "8"], ["--overlap 8", "9"]),
    (["--size", "100x100"], ["'100x100'", "multiples of 16"]), (["--addnoise", "2000"], ["2000"]),
    (["--schedule", "spiral"], ["'spiral'"]), (["--schedule", "dense", "--plan", "dense"], ["one of the two"])])
def test_what_makes_no_sense_is_said_in_one_sentence(tiny_model, tmp_path, capsys, words, expected):
    code = main(["generate", "--model", str(tiny_model), *QUICK, "--chunks", "2", "--out", str(tmp_path), *words])
    message = capsys.readouterr().err
    assert code == 2 and all(part in message for part in expected) and "Traceback" not in message, message
