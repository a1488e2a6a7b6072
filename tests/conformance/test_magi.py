"""The released MAGI-1 samplers end to end on their toy network: decisions, key ranges, kept tokens, latents."""

import math

import pytest
import torch

from flowcache_core.backbones import magi_parts
from flowcache_core.plan import pipelined
from flowcache_core.solvers.magi_times import magi_intervals, magi_times
from tests.conformance.golden import cases_of, pack, packs, tensors_of
from tests.conformance.magi import magi_run

TOLERANCE = 3e-5   # of latents; accumulators 2e-8


def grid(case):
    """Arguments of the time grid."""
    given = {"shortcut": case["shortcut_mode"]}
    if case["schedule"] != "default":
        given |= {"transform": case["schedule"]["tSchedulerFunc"], "shift": case["schedule"].get("shift", 3.0)}
    return given


@pytest.mark.parametrize("case", cases_of("magi_schedule.json"), ids=lambda case: case["id"])
def test_magi_windows(case):
    """Which chunk takes which step in which row. Steps that the window does not divide (M18) are refused by ours."""
    count, offset, steps = case["num_chunks"], case["chunk_offset"], case["num_steps"]
    if steps % case["window"]:
        with pytest.raises(ValueError, match="must be a multiple of the window"):
            pipelined(count, 1, steps, case["window"], offset)
        return
    plan = pipelined(count, 1, steps, case["window"], offset)
    assert len(plan.rows) == case["expected"]["total_steps"]
    for row, expected in zip(plan.rows, case["expected"]["steps"], strict=True):
        passes = [p for p in row if p.kind == "denoise"]
        assert [p.chunks[0] for p in passes] == list(range(expected["chunk_start"], expected["chunk_end"]))
        assert [p.steps[0] for p in passes] == expected["t_index"]
        assert [p.chunks[0] for p in passes if p.steps[0] == steps - 1] == expected["completed"]


@pytest.mark.parametrize("case", cases_of("magi_schedule.json"), ids=lambda case: case["id"])
def test_magi_grid(case):
    assert list(magi_times(case["num_steps"], **grid(case))) == case["expected"]["t_table"]
    assert list(magi_intervals(case["num_steps"], case["shortcut_mode"])) == case["expected"]["interval_table"]


@pytest.fixture
def frequencies_of_the_vectors(monkeypatch):
    """One frequency a bit higher than rounded exactly: what the processor that made the vectors must have got from its
    fp32 `exp`. Inferred from them; without it latents are 3e-5 to 1.5e-4 off, since step offsets turn by 8000 radians.
    """
    ours = magi_parts.time_frequencies()
    theirs = torch.where(torch.arange(len(ours)) == 13, ours.nextafter(torch.ones(())), ours)
    monkeypatch.setattr(magi_parts, "time_frequencies", lambda: theirs)


def walk(run, case, tensors):
    """Runs; after every row compares the snapshots and yields the row's passes and the cache's tokens."""
    last_pass = {id(row[-1]): number for number, row in enumerate(run.plan.rows)}
    held, snapshots = [], {}

    def on_progress(progress):
        number = last_pass.get(id(progress.last))
        if number is not None:
            snapshots[number] = run.video.latents.clone()

    after_row = run.cache.after_row

    def recorded(number):
        after_row(number)
        held.append(run.cache.store.tokens)

    run.cache.after_row = recorded
    snapshots["final"] = run.run(on_progress)
    for key, latents in tensors.items():
        if key.startswith("out.latents"):
            place = key.rpartition("step")[2] if "step" in key else "final"
            torch.testing.assert_close(snapshots[place if place == "final" else int(place)], latents, atol=TOLERANCE,
                                       rtol=0, msg=lambda m, k=key: f"{k}: {m}")
    return [[p for p in run.trace.passes if p.row == n] for n in range(len(run.plan.rows))], held


@pytest.mark.usefixtures("frequencies_of_the_vectors")
@pytest.mark.parametrize("name", packs("magi_e2e_*.json"))
def test_magi(name):
    case = pack(name)
    tensors, config = tensors_of(name.replace(".json", ".safetensors")), case["config"]
    run = magi_run(case, tensors)
    rows, held = walk(run, case, tensors)
    totals = [0.0] * config["num_chunks"]
    for passes, tokens, expected in zip(rows, held, case["steps"] or [None] * len(rows), strict=True):
        if expected is None:
            continue
        lanes = [p.lanes[0] for p in passes if p.kind == "denoise"]
        assert [lane.chunk for lane in lanes] == expected["chunks"]
        assert [int(lane.decision == "reuse") for lane in lanes] == expected["reuse"], expected["step"]
        for lane, d in zip(lanes, expected["d"], strict=True):
            assert d is None and lane.distance is None or math.isclose(lane.distance, d, rel_tol=1e-4, abs_tol=2e-7)
            if lane.decision == "reuse":
                totals[lane.chunk] = lane.value
            elif lane.reason in ("threshold reached", "warm-up") and lane.step:
                totals[lane.chunk] = 0.0
        assert totals == pytest.approx(expected["acc"], abs=1e-6), expected["step"]
        ran = [p for p in passes if p.calls]
        behind = 1 + expected["chunks"][-1]
        assert [behind if p.kind == "near_clean" else p.chunks[0] for p in ran] == expected["forwarded"]
        assert [p.keys for p in ran] == [stop - start for start, stop in expected["kv_range"]], expected["step"]
        if "next_free" in expected:
            assert tokens == expected["next_free"], expected["step"]
    check_events(case, tensors, run)


def check_events(case, tensors, run):
    events = case["compression_events"]
    if run.settings.compression is None:
        assert not events
        return
    assert len(run.settings.compression.choices) == len(events)
    for event, choice in zip(events, run.settings.compression.choices, strict=True):
        kept = tensors[f"out.step{event['step']:03d}.layer{event['layer']}.kept"].long()
        assert torch.equal(choice[0].sort(-1).values, kept.sort(-1).values), (event["step"], event["layer"])
