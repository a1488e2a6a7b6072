"""The released SkyReels-V2 sampler end to end on its toy network: decisions, clean lists, key counts, kept tokens,
latents, of both windows of every case."""

import math

import pytest
import torch

from tests.conformance.golden import end_to_end, packs, tensors_of
from tests.conformance.skyreels import window_run


def snapshots(run):
    """Latents after every row and at the end, and the trace's passes by row."""
    last_pass = {id(row[-1]): number for number, row in enumerate(run.plan.rows)}
    seen = {}

    def on_progress(progress):
        if id(progress.last) in last_pass:
            seen[last_pass[id(progress.last)]] = run.video.latents.clone()

    seen["final"] = run.run(on_progress)
    return seen


def replayed_calls(run, case, window):
    """What the trace says of every call (row, stream): chunks, steps, decisions, distances, accumulators, keys."""
    config = case["config"]
    acc = {stream: [0.0] * config["num_chunks"] for stream in run.streams}
    for number in range(len(run.plan.rows)):
        passes = [p for p in run.trace.passes if p.row == number]
        for stream in run.streams:
            call = {"chunks": [], "local_step": [], "computed": [], "d": [], "n_keys": []}
            for p in passes:
                lane = next((lane for lane in p.lanes if lane.stream == stream), None)
                computed = lane is None or lane.decision == "compute"
                call["chunks"].append(p.chunks[0])
                call["local_step"].append(p.steps[0] if p.steps else 0)
                call["computed"].append(int(computed))
                call["d"].append(lane and lane.distance)
                call["n_keys"] += [p.keys] if computed else []
                if lane is not None and config["reuse"]:
                    acc[stream][p.chunks[0]] = 0.0 if computed else lane.value
            yield {**call, "acc": list(acc[stream])}


@pytest.mark.parametrize("window", [0, 1])
@pytest.mark.parametrize("name", packs("sky_e2e_*.json"))
def test_skyreels(name, window):
    case = end_to_end(name)
    tensors, expected = tensors_of(case, case["tensors"]), case["windows"][window]
    rounded = case["config"]["residual_dtype"] == "bfloat16"
    run = window_run(case, tensors, window)
    assert len(run.plan.rows) == expected["rows"]
    seen = snapshots(run)

    calls = list(replayed_calls(run, case, window))
    assert len(calls) == len(expected["calls"])
    for found, call in zip(calls, expected["calls"], strict=True):
        for key in ("chunks", "local_step", "computed", "n_keys"):
            assert found[key] == call[key], (call["call"], key)
        for ours, theirs in zip(found["d"], call.get("d", found["d"]), strict=True):
            assert theirs is None and ours is None or math.isclose(ours, theirs, abs_tol=5e-7), call["call"]
        assert found["acc"] == pytest.approx(call.get("acc", found["acc"]), abs=4e-5, rel=1e-5), call["call"]

    own = slice(window * case["config"]["block"], None)
    for key, latents in tensors.items():
        if key.startswith(f"out.w{window}.latents_"):
            row = key.rpartition("_")[2].removeprefix("row")
            ours = seen[row if row == "final" else int(row)][0]
            torch.testing.assert_close(ours[:, own], latents[:, own], atol=9e-2 if rounded else 1.3e-5, rtol=0,
                                       msg=lambda m, k=key: f"{k}: {m}")
    check_events(case, tensors, run, window)


def check_events(case, tensors, run, window):
    """Every layer of every stream chose the recorded tokens, in the recorded order where scores tell them apart."""
    events = [e for e in case["compression_events"] if e["window"] == window]
    if not case["config"]["use_compress"]:
        assert not events
        return
    choices = iter(run.settings.compression.choices)
    layers = case["model"]["num_layers"]
    expected = {}
    for event in events:
        kept = tensors[f"out.w{window}.call{event['call']:03d}.group{event['group']}.layer{event['layer']}.kept"].long()
        expected.setdefault((event["call"] // 2, event["group"]), {})[event["layer"], event["branch"]] = kept
    assert len(run.settings.compression.choices) == len(events)
    for key in sorted(expected):
        for layer in range(layers):
            for branch in ("cond", "uncond"):
                found = next(choices)[0]
                kept = expected[key][layer, branch]
                assert torch.equal(found.sort(-1).values, kept.sort(-1).values), (key, layer, branch)
