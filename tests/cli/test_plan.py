"""`plan` of a video that is made in outer windows shows these, as `generate` runs them."""

import json
from pathlib import Path

import pytest

from flowcache_core.cli import main
from flowcache_core.cli.arguments import parse_ranges
from flowcache_core.profiles import load_profile
from flowcache_core.reuse import POLICIES, PREDICTORS
from flowcache_core.sampling import latents_for, video_request
from flowcache_core.sampling.request import RunRequest
from flowcache_core.sampling.schedule import plan_request


def test_long_video_is_shown_in_its_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = load_profile("skyreels-v2-df")
    assert main(["plan", "--profile", profile.name, "--latent-frames", "60", "--steps", "6",
                 "--out", str(tmp_path / "plan.png")]) == 0
    *text, told = capsys.readouterr().out.strip().splitlines()
    schedule = plan_request(profile, 60, steps=6)
    run = RunRequest(profile, schedule.build(), (), 0, profile.shift, profile.guidance, POLICIES.make("off"),
                     PREDICTORS.make("residual"))
    runs = video_request(run, schedule, base_frames=profile.base_frames,
                         overlap_frames=latents_for(profile.overlap_pixel_frames))
    plans = [runs.plan(n) for n in range(len(runs.windows))]
    passes, found = sum(len(list(p.passes())) for p in plans), json.loads(told)
    assert found["windows"] == [[w.start, w.frames, w.prefix] for w in runs.windows] and len(plans) == 3
    assert (found["chunks"], found["latent_frames"], found["passes"]) == (runs.chunks, 60, passes)
    assert found["rows"] == sum(len(p.rows) for p in plans)
    total = next(line for line in text if line.startswith("all"))
    assert total.split()[-2:] == [str(passes), str(2 * passes)]   # guided: two streams
    assert sum(line.startswith("window ") for line in text) == 1 + len(plans)   # the table, and three different plans


def test_rolling_schedule_and_short_videos_have_one_window(capsys: pytest.CaptureFixture[str]) -> None:
    for more in (["--latent-frames", "60", "--schedule", "rolling"], ["--latent-frames", "25"]):
        assert main(["plan", "--profile", "skyreels-v2-df", "--steps", "6", *more]) == 0
        *text, told = capsys.readouterr().out.strip().splitlines()
        assert len(json.loads(told)["windows"]) == 1 and not any("windows" in line for line in text)


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main(["plan", "--profile", "skyreels-v2-df", "--latent-frames", "60", "--steps", "6", *words]) == 0
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_other_windows_can_be_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "--base", "77", "--overlap", "37")["windows"] == [[0, 20, 0], *(
        [start, 20, 10] for start in (10, 20, 30, 40))]
    assert told(capsys, "--base", "117")["windows"] == [[0, 30, 0], [25, 30, 5], [50, 10, 5]]
    assert main(["plan", "--base", "21", "--overlap", "9", "--steps", "3", "--chunks", "3"]) == 0
    assert '"windows": [[0, 6, 0], [3, 6, 3]]' in capsys.readouterr().out


@pytest.mark.parametrize(("words", "said"), [
    (["--base", "78"], "--base 78: expected 4n + 1 pixel frames, as in 77"),
    (["--base", "-3"], "--base -3: expected 4n + 1"), (["--overlap", "6"], "--overlap 6: expected 4n + 1"),
    (["--base", "17"], "overlap of 5 latent frames (17 pixel frames): expected at least a chunk"),
    (["--overlap", "5"], "overlap of 2 latent frames (5 pixel frames)"), (["--overlap", "0"], "overlap of 0 latent"),
    (["--base", "77", "--schedule", "rolling"], "leave it out, or choose the schedule async"),
    (["--overlap", "9", "--profile", "demo"], "say with --base how long a window is")])
def test_windows_that_cannot_be_are_refused_in_one_sentence(words: list[str], said: str,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--profile", "skyreels-v2-df", "--latent-frames", "60", "--steps", "6", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error


def test_ranges_of_the_release_are_asked_for_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    profile = load_profile("magi-1")
    assert parse_ranges("release", profile) == (5, 4, 3, 2) == parse_ranges("5,4,3,2", profile)
    assert main(["plan", "--profile", "magi-1", "--chunks", "6", "--steps", "16", "--ranges", "release"]) == 0
    for words, said in ((["--ranges", "5;4"], "expected whole numbers"), (["--ranges", "3,2,1"], "as divide the steps"),
                        (["--ranges", "release", "--history", "2"], "give one of the two"),
                        (["--ranges", "2,1", "--profile", "demo"], "only pipelined has any"),
                        (["--ranges", "release", "--profile", "demo"], "its release has none")):
        assert main(["plan", "--profile", "magi-1", "--chunks", "6", "--steps", "16", *words]) == 2
        error = capsys.readouterr().err.strip()
        assert said in error and "\n" not in error
