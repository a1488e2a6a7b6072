"""A forecast against the run that it is about, on a small network; the picture, the tables and the short JSON."""

import json

import pytest
import torch

from flowcache_core.flops import wan_architecture
from flowcache_core.forecast import Forecast, forecast
from flowcache_core.generation import Generation, Given
from flowcache_core.kv import KVBudget, KVShape
from flowcache_core.plan import Window, dense, diffusion_forcing, rolling, sequential
from flowcache_core.report.forecast_picture import forecast_picture, forecast_text, foreseen_marks
from flowcache_core.report.run_table import chunk_rows, run_json, run_text
from flowcache_core.reuse.policies.every_nth import EveryNth
from flowcache_core.reuse.policies.flowcache import FlowCache
from flowcache_core.reuse.policies.off import Off
from flowcache_core.sampling import VideoRun
from flowcache_core.video_forecast import VideoForecast
from tests.families.test_windows import ToyCodec, Words, asked
from tests.reference import SIDE, TINY, TOKENS, tiny_run, tiny_wan

TIME = FlowCache(threshold=0.3, warmup_steps=2)
PLANS = [diffusion_forcing(7, 2, 6, 3, 1, commit=True), sequential(5, 2, 6), dense(5, 2, 6), rolling(6, 2, 6)]
BUDGET = KVBudget(3, "chunks")


def told_of(run: Generation, rate: float | None = None) -> Forecast:
    settings, sizes = run.settings, run.backbone.sizes
    shape = KVShape(sizes.layers, len(settings.streams), settings.items, sizes.heads, sizes.head_dim, 4)
    return forecast(run.plan, settings, run.backbone.time_modulation,
                    wan_architecture(TINY.dim, TINY.ffn, TINY.layers, 5), TOKENS, shape, run.trace.kv_peak_bytes, rate)


def alone(told: Forecast) -> VideoForecast:
    return VideoForecast((Window(0, told.plan.frames, 0),), (told,))


@pytest.mark.parametrize("frames", [10, 15])
def test_windows_are_told_as_they_are_made(frames):
    """Thresholds count through the video; the cache is that of the largest window."""
    request = asked(frames, policy=FlowCache(threshold="0-2:0.05, 3+:0.9", warmup_steps=1, last_steps=0))
    run, parts = VideoRun(request, tiny_wan(), Words(), ToyCodec()), []
    for n, window in enumerate(request.windows):
        given = Given(torch.zeros(1, 4, window.prefix, SIDE, SIDE)) if window.prefix else Given()
        parts.append(told_of(request.window_run(n, given).generation(tiny_wan(), Words()), rate=1.0))
    told = VideoForecast(request.windows, tuple(parts))
    run.run()
    summary = run.trace.summary()
    assert (told.calls, told.kv_bytes) == (summary["model_calls"], summary["kv_peak_bytes"])
    assert told.computed_share == pytest.approx(run.trace.computed_share) and told.computed_share < 1
    assert told.rows == run.trace.plan["rows"] and told.passes == len(run.trace.passes)
    assert told.seconds == pytest.approx(told.flops) and told.firsts[-1] == request.chunks
    text = forecast_text(told)
    assert f"{request.chunks} chunks in {len(request.windows)} windows of at most 6" in text
    assert "window 2, from chunk 3: " in text and "freed after every window" in text
    assert "chunks 3-4: #-- (1 of 3" in text and "skips: none" in text
    assert forecast_picture(told).shape[1:] == (1280, 3)


@pytest.mark.parametrize("span", [{}, {"reuse_from": 0.34, "reuse_until": 0.7}], ids=["all steps", "some steps"])
@pytest.mark.parametrize("policy", [TIME, EveryNth(interval=3), Off()], ids=lambda policy: policy.name)
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_forecast_is_what_the_run_does(plan, policy, span):
    run = tiny_run(plan, policy=policy, items=2, **span)
    told = told_of(run)
    run.run()
    assert told.calls == run.trace.summary()["model_calls"]
    assert told.computed_share == pytest.approx(run.trace.computed_share)
    assert (told.calls == told.whole_calls) == (told.computed_share == 1) == (told.flops == told.whole_flops)
    wanted = {(lane.chunk, lane.step): lane.decision == "compute" for p in run.trace.passes for lane in p.lanes}
    assert {place: told.computes(*place) for place in wanted} == wanted


def test_seconds_follow_the_flops_that_are_left_and_a_budget_takes_some():
    told = told_of(tiny_run(PLANS[1], policy=TIME), rate=2.0)
    assert told.seconds == 2 * told.flops < told.whole_seconds == 2 * told.whole_flops
    assert told_of(tiny_run(PLANS[1], policy=TIME)).seconds is None
    long = sequential(16, 2, 6)
    assert told_of(tiny_run(long, budget=BUDGET)).flops < told_of(tiny_run(long)).flops


def test_content_is_not_foreseen_and_that_is_said():
    told = told_of(tiny_run(PLANS[1], policy=FlowCache(threshold=0.3, distance_signal="patch_embedding")))
    assert told.decisions is None and told.computed_share == 1 and not foreseen_marks(told).marks
    assert "cannot be shown before it is made" in forecast_text(alone(told))


def test_picture_grows_by_a_map_where_decisions_are_known():
    known = told_of(tiny_run(PLANS[1], policy=TIME))
    content = told_of(tiny_run(PLANS[1], policy=FlowCache(threshold=0.3, distance_signal="patch_embedding")))
    a, b = forecast_picture(alone(known)), forecast_picture(alone(content))
    assert a.shape[1:] == b.shape[1:] == (1280, 3) and (a[:len(b)] == b).all() and len(a) > len(b)
    marks = foreseen_marks(known)
    assert marks.counts["forced"] and marks.counts["reuse"] and sum(marks.counts.values()) == known.plan.chunk_steps()


def test_words_tell_calls_memory_and_estimated_time():
    told = told_of(tiny_run(PLANS[1], policy=TIME), rate=1e-9)
    text = forecast_text(alone(told))
    assert f"model calls: {told.calls:,} of {told.whole_calls:,}" in text and "time (estimated" in text
    assert "skips: none" in forecast_text(alone(told_of(tiny_run(PLANS[1]))))


def test_rows_of_a_run_add_up_to_its_summary():
    run = tiny_run(diffusion_forcing(6, 2, 6, 2), policy=TIME)
    run.run()
    rows, summary = chunk_rows(run.trace), run.trace.summary()
    for column, name in (("steps", "chunk_steps"), ("computed", "computed")):
        assert sum(row[column] for row in rows) == summary[name]
    assert sum(row["skipped"] for row in rows) == summary["reused"] + summary["predicted"] + summary["derived"]
    assert sum(row["seconds"] for row in rows) == pytest.approx(run.trace.seconds, abs=0.01)
    assert max(row["KV MB"] for row in rows) <= round(summary["kv_peak_bytes"] / 1e6, 2)
    run.trace.notes.append("something to know")
    assert "note: something to know" in run_text(run.trace) and run_text(run.trace).count("\n") >= len(rows) + 3
    short = run_json(run.trace)
    assert "passes" not in short and json.loads(json.dumps(short))["chunks"] == rows
