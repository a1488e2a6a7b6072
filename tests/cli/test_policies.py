"""Policies and predictors on the command line: settings, calibration, decisions ahead of sampling."""

import json

import pytest
import torch
from safetensors.torch import load_file

from flowcache_core.cli import main
from flowcache_core.cli.request import parse_predictor, parse_settings
from flowcache_core.foresight import foresee
from flowcache_core.plan import diffusion_forcing
from flowcache_core.reuse import POLICIES
from flowcache_core.reuse.magnitudes import load_magnitudes
from flowcache_core.solvers import flow_table
from flowcache_core.trace import load_trace
from tests.cli.test_bad_input import refused
from tests.reference import decisions, tiny_run, tiny_wan

QUICK = ["--steps", "6", "--chunks", "2"]


def last_line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_calibrate_generate_and_plan_with_magcache(tiny_model, tmp_path, capsys):
    path, model = tmp_path / "sizes.json", ["--model", str(tiny_model)]
    assert main(["calibrate", *model, *QUICK, "--out", str(path)]) == 0
    told, found = last_line(capsys), load_magnitudes(str(path))
    assert told["steps"] == found.steps == 6 and set(found.ratios) == {"cond#0", "uncond#0"}
    assert found.predictor == "residual" and json.loads(path.read_text())["provenance"]["profile"]
    policy = ["--policy", "magcache", "--set", f"calibration={path}", "--threshold", "0:0.5, 1+:0.4", "--predictor",
              "residual"]
    assert main(["plan", *model, *QUICK, *policy]) == 0
    foreseen = last_line(capsys)["foreseen_share"]
    assert main(["generate", *model, *QUICK, *policy, "--out", str(tmp_path / "run")]) == 0
    trace = load_trace(tmp_path / "run" / "trace.json")
    assert trace.computed_share == pytest.approx(foreseen, abs=0.2) and trace.counts()["reuse"] > 0
    for words, part in ((["--steps", "7"], "is of 6 steps and this run takes 7"),
                        (["--predictor", "velocity"], "of the predictor residual"),
                        (["--guidance", "1", "--model", "flowcache_core/demo/weights/transformer.safetensors"],
                         "of another network")):
        message = refused(["generate", *model, *QUICK, *policy, "--out", str(tmp_path / "no"), *words], capsys)
        assert part in message and "calibrate again" in message


def test_calibrate_refuses_what_has_no_size(capsys):
    assert "'taylor': sizes are calibrated for residual or velocity" in refused(
        ["calibrate", "--predictor", "taylor"], capsys)


@pytest.mark.parametrize("name", ["teacache", "easycache", "motioncache", "mixcache"])
def test_policies_run_from_the_command_line(name, tiny_model, tmp_path, capsys):
    words = ["generate", "--model", str(tiny_model), *QUICK, "--policy", name, "--set", "threshold=1.5",
             "--predictor", "taylor:reach=2", "--out", str(tmp_path)]
    assert main(words) == 0
    result = last_line(capsys)
    kinds = ("computed", "reused", "predicted", "partial", "derived")
    assert sum(result[kind] for kind in kinds) == result["chunk_steps"] == 24


@pytest.mark.parametrize("name", ["easycache", "motioncache", "mixcache"])
def test_decisions_that_depend_on_the_video_are_not_foreseen(name, tiny_model, capsys):
    message = refused(["plan", "--model", str(tiny_model), *QUICK, "--policy", name], capsys)
    assert f"policy {name}" in message and "before" in message


def test_a_decision_by_row_is_foreseen_as_it_will_be_made():
    plan, model = diffusion_forcing(6, 2, 10, 3), tiny_wan()
    policy = POLICIES.make("teacache", {"threshold": 0.3, "warmup_rows": 2})
    run = tiny_run(plan, model, policy=policy)
    run.run()
    foreseen = foresee(policy, flow_table(10, 3.0), 3, model.time_modulation, plan)
    made = {place[:2]: d for place, d in decisions(run).items()}
    assert made == {(c, s): d.kind.value for c, chunk in enumerate(foreseen) for s, d in enumerate(chunk)}
    with pytest.raises(ValueError, match="show it together with a plan"):
        foresee(policy, flow_table(10, 3.0), 3, model.time_modulation)


def test_settings_that_are_true_or_false():
    assert parse_settings(["consistent=False"], POLICIES, "motioncache") == {"consistent": False}
    with pytest.raises(ValueError, match="consistent 'maybe': expected true or false"):
        parse_settings(["consistent=maybe"], POLICIES, "motioncache")
    with pytest.raises(ValueError, match="consistent 'false': expected true or false"):
        POLICIES.make("motioncache", {"consistent": "false"})


def test_settings_of_a_predictor():
    assert parse_predictor("taylor:reach=2.5").reach == 2.5 and parse_predictor("taylor").reach == 2
    for text, message in (("taylor:reach=-1", "reach -1"), ("taylor:reach", "NAME=VALUE"),
                          ("velocity:x=1", "no setting x"), ("nosuch", "'nosuch'")):
        with pytest.raises(ValueError, match=message):
            parse_predictor(text)


@pytest.mark.parametrize("policy", [["flowcache", "--threshold", "5", "--set", "warmup_steps=1"],
                                    ["every_nth", "--set", "interval=10"], ["teacache", "--threshold", "5"]])
def test_skips_stay_in_the_part_that_is_asked_for_and_plan_shows_it(policy, tiny_model, tmp_path, capsys):
    words = ["--model", str(tiny_model), "--steps", "10", "--chunks", "2", "--plan", "sequential", "--policy", *policy,
             "--start-percent", "0.3", "--end-percent", "0.7"]
    assert main(["plan", *words]) == 0
    *text, told = capsys.readouterr().out.splitlines()
    assert main(["generate", *words, "--out", str(tmp_path / "run")]) == 0
    trace = load_trace(tmp_path / "run" / "trace.json")
    made = {lane.step: lane for p in trace.passes for lane in p.lanes if lane.chunk == 0}
    skipped = {step for step, lane in made.items() if lane.decision != "compute"}
    assert skipped and skipped <= set(range(3, 8))
    assert any("outside" in lane.reason for lane in made.values())
    assert json.loads(told)["foreseen_share"] == pytest.approx(trace.computed_share)
    pattern = next(line for line in text if line.startswith("chunk")).split()[-6]
    assert {step for step, mark in enumerate(pattern) if mark == "-"} == skipped
    message = refused(["generate", "--resume", str(tmp_path / "run"), "--start-percent", "0.1"], capsys)
    assert "reuse_from is 0.1, it was 0.3" in message


def test_a_part_that_has_no_step_switches_the_policy_off(tiny_model, tmp_path, capsys):
    words = ["generate", "--model", str(tiny_model), *QUICK, "--out"]
    fast = ["--threshold", "5", "--start-percent", "1", "--end-percent", "1"]
    assert main([*words, str(tmp_path / "none"), *fast]) == 0 and main([*words, str(tmp_path / "off")]) == 0
    none, off = (load_file(tmp_path / name / "chunk-0001.safetensors")["latent"] for name in ("none", "off"))
    assert torch.equal(none, off)
    for start, end in (("0.9", "0.5"), ("-0.1", "1"), ("0", "15"), ("nan", "1")):
        message = refused([*words, str(tmp_path / "no"), "--start-percent", start, "--end-percent", end], capsys)
        assert f"--start-percent {float(start):g} with --end-percent {end}" in message and "0 to 1" in message
