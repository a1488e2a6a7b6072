import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flowcache_core.cli import main
from flowcache_core.trace import load_trace

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--steps", "4", "--chunks", "3"]


def last_line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_generate_writes_chunks_video_trace_and_report(tiny_model, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["generate", "--model", str(tiny_model), *QUICK, "--policy", "every_nth", "--out", str(out)]) == 0
    result = last_line(capsys)
    assert result["chunk_steps"] == 3 * 4 * 2 and result["reused"] > 0
    chunks = [load_file(out / f"chunk-{n:04d}.safetensors")["latent"] for n in range(3)]
    assert all(chunk.shape == (1, 16, 3, 12, 12) for chunk in chunks)
    assert load_trace(out / "trace.json").settings["policy"] == "every_nth"
    assert (out / "video.mp4").stat().st_size > 500 and (out / "report.png").stat().st_size > 5000
    assert not list(out.glob("*.partial*"))


def test_a_second_run_in_the_same_process_makes_the_same_video(tiny_model, tmp_path):
    for name in ("a", "b"):
        assert main(["generate", "--model", str(tiny_model), *QUICK, "--out", str(tmp_path / name)]) == 0
    a, b = (load_file(tmp_path / name / "chunk-0002.safetensors")["latent"] for name in ("a", "b"))
    assert torch.equal(a, b)


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_odd_lengths(tiny_model, tmp_path, capsys, frames):
    words = ["--steps", "2", "--latent-frames", str(frames), "--out", str(tmp_path)]
    assert main(["generate", "--model", str(tiny_model), *words]) == 0
    saved = [load_file(path)["latent"].shape[2] for path in sorted(tmp_path.glob("chunk-*.safetensors"))]
    assert sum(saved) == frames


@pytest.mark.parametrize("plan", ["diffusion_forcing", "sequential", "pipelined", "dense", "rolling"])
def test_every_plan_runs_and_can_be_drawn(tiny_model, tmp_path, capsys, plan):
    words = ["--plan", plan, "--window", "2", *QUICK]
    assert main(["plan", *words, "--out", str(tmp_path / "plan.png")]) == 0
    assert last_line(capsys)["chunk_steps"] == 12
    assert main(["generate", "--model", str(tiny_model), *words, "--out", str(tmp_path / plan)]) == 0


def test_a_policy_that_skips_nothing_says_so(tiny_model, tmp_path, capsys):
    words = ["generate", "--model", str(tiny_model), *QUICK, "--threshold", "0.1", "--out", str(tmp_path)]
    assert main(words) == 0
    assert "policy flowcache skipped nothing: warm-up" in capsys.readouterr().out


def test_demo_prints_its_fields(tiny_model, tmp_path, capsys):
    assert main(["demo", "--model", str(tiny_model), "--steps", "8", "--chunks", "2", "--out", str(tmp_path)]) == 0
    result = last_line(capsys)
    assert set(result) == {"seconds_uncached", "seconds_accelerated", "speedup", "computed_share", "psnr_db", "ssim",
                           "score_uncached", "score_accelerated", "kv_peak_bytes", "videos", "report", "flops_uncached",
                           "flops_accelerated", "not_finite"}
    assert 0 < result["flops_accelerated"] <= result["flops_uncached"]
    assert all(Path(path).is_file() for path in result["videos"].values())


@pytest.mark.skipif(os.name == "nt", reason="signals differ on Windows")
def test_an_interrupt_keeps_the_finished_chunks_and_says_where(tiny_model, tmp_path):
    words = ["generate", "--model", str(tiny_model), "--chunks", "400", "--steps", "6", "--ar-step", "6", "--out",
             str(tmp_path)]
    command = [sys.executable, "-m", "flowcache_core", *words]
    run = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "chunk-0001.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, message = run.communicate(timeout=60)
    assert run.returncode == 130
    saved = sorted(tmp_path.glob("chunk-*.safetensors"))
    assert f"{len(saved)} finished chunks kept in {tmp_path}" in message and "Traceback" not in message
    assert all(load_file(path)["latent"].isfinite().all() for path in saved)
    assert (tmp_path / "video.partial.mp4").stat().st_size > 0
