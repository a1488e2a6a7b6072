"""`plan` of a video that is made in outer windows shows these, as `generate` runs them."""

import json
from pathlib import Path

import pytest

from flowcache_core.cli import main
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
