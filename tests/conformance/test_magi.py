"""The released MAGI-1 samplers end to end on their toy network: decisions, key ranges, kept tokens, latents."""

import itertools
import math

import pytest
import torch

from flowcache_core.backbones import magi_parts
from flowcache_core.plan import pipelined
from flowcache_core.solvers.magi_times import magi_intervals, magi_times
from tests.conformance.golden import cases_of, end_to_end, folder, packs, tensors_of
from tests.conformance.magi import chosen, magi_run
from tests.conformance.rounding import check_choices, check_latents

TOLERANCE, ACCUMULATOR = 3e-5, 2e-8   # of latents and of accumulators
TIE = 0.03         # units in the last place
FAST = 24          # frequencies whose last bit shows in latents


def grid(case):
    """Arguments of the time grid."""
    given = {"shortcut": case["shortcut_mode"]}
    if case["schedule"] != "default":
        given |= {"transform": case["schedule"]["tSchedulerFunc"], "shift": case["schedule"].get("shift", 3.0)}
    return given


@pytest.mark.parametrize("case", cases_of("magi_schedule*.json"), ids=lambda case: case["id"])
def test_magi_windows(case):
    """Which chunk takes which step in which row. Steps that the window does not divide (M18) are refused by ours; the
    release walks the whole stages that they hold and leaves every chunk unfinished."""
    count, offset, steps = case["num_chunks"], case["chunk_offset"], case["num_steps"]
    walked = steps - steps % case["window"]
    if walked != steps:
        with pytest.raises(ValueError, match="must be a multiple of the window"):
            pipelined(count, 1, steps, case["window"], offset)
    plan = pipelined(count, 1, walked, case["window"], offset)
    assert len(plan.rows) == case["expected"]["total_steps"]
    for row, expected in zip(plan.rows, case["expected"]["steps"], strict=True):
        passes = [p for p in row if p.kind == "denoise"]
        assert [p.chunks[0] for p in passes] == list(range(expected["chunk_start"], expected["chunk_end"]))
        assert [p.steps[0] for p in passes] == expected["t_index"]
        assert [p.chunks[0] for p in passes if p.steps[0] == steps - 1] == expected["completed"]


@pytest.mark.parametrize("case", cases_of("magi_schedule*.json"), ids=lambda case: case["id"])
def test_magi_grid(case):
    assert list(magi_times(case["num_steps"], **grid(case))) == case["expected"]["t_table"]
    assert list(magi_intervals(case["num_steps"], case["shortcut_mode"])) == case["expected"]["interval_table"]


def near_ties() -> list[int]:
    """Frequencies whose exact value lies so close to the middle of two fp32 numbers that good `exp`s differ."""
    waves = torch.arange(FAST, dtype=torch.float32) / (magi_parts.TIME_WAVES // 2)
    exponent = -math.log(magi_parts.TIME_PERIOD) * waves
    exact, ours = exponent.double().exp(), magi_parts.time_frequencies()[:FAST]
    unit = ours.nextafter(torch.full((), 2.0)).double() - ours
    return [int(i) for i in (((exact - ours).abs() / unit - 0.5).abs() < TIE).nonzero().flatten()]


def rounded_up(up: tuple[int, ...]) -> torch.Tensor:
    ours = magi_parts.time_frequencies()
    raised = torch.isin(torch.arange(len(ours)), torch.tensor(up, dtype=torch.long))
    return torch.where(raised, ours.nextafter(torch.full((), 2.0)), ours)


@pytest.fixture(scope="module")
def frequencies() -> torch.Tensor:
    """The time frequencies of the processor that made the vectors: ours, but for near ties, which its fp32 `exp` may
    round up. Which of them it does is inferred from the shortest case and must then hold for all: step offsets turn
    the waves by 8000 radians and more, where the last bit of a frequency moves latents by 1e-4.
    """
    cases = [end_to_end(name) for name in packs("magi_e2e_*.json") if (folder() / name).is_file()]
    case = min(cases, key=lambda c: c["config"]["num_steps"] * c["config"]["num_chunks"])
    tensors, ties = tensors_of(case, case["tensors"]), near_ties()
    choices = [rounded_up(up) for n in range(len(ties) + 1) for up in itertools.combinations(ties, n)]

    def error(choice: torch.Tensor) -> float:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(magi_parts, "time_frequencies", lambda: choice)
            return float((magi_run(case, tensors).run() - tensors["out.latents_final"]).abs().max())

    return min(choices, key=error)


def walk(run):
    """Runs; latents after every row and at the end, the trace's passes by row, and the cache's tokens after each."""
    last_pass = {id(row[-1]): number for number, row in enumerate(run.plan.rows)}
    held, seen = [], {}

    def on_progress(progress):
        number = last_pass.get(id(progress.last))
        if number is not None:
            seen[number] = run.video.latents.clone()

    after_row = run.cache.after_row

    def recorded(number):
        after_row(number)
        held.append(run.cache.store.tokens)

    run.cache.after_row = recorded
    seen["final"] = run.run(on_progress)
    return seen, [[p for p in run.trace.passes if p.row == n] for n in range(len(run.plan.rows))], held


def latents_of(tensors):
    """The recorded latents, by row."""
    prefix = "out.latents_"
    places = {key: key.removeprefix(prefix).removeprefix("after_step") for key in tensors if key.startswith(prefix)}
    return {place if place == "final" else int(place): tensors[key] for key, place in places.items()}


@pytest.mark.parametrize("name", packs("magi_e2e_*.json"))
def test_magi(name, request, monkeypatch):
    case = end_to_end(name)
    tensors, config = tensors_of(case, case["tensors"]), case["config"]
    waves = request.getfixturevalue("frequencies")   # after the skip where there are no vectors
    monkeypatch.setattr(magi_parts, "time_frequencies", lambda: waves)
    run = magi_run(case, tensors)
    seen, rows, held = walk(run)
    check_latents(name, seen, latents_of(tensors), TOLERANCE, lambda: walk(magi_run(case, tensors))[0])
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
        assert totals == pytest.approx(expected["acc"], abs=ACCUMULATOR), expected["step"]
        ran = [p for p in passes if p.calls]
        behind = 1 + expected["chunks"][-1]
        assert [behind if p.kind == "near_clean" else p.chunks[0] for p in ran] == expected["forwarded"]
        assert [p.keys for p in ran] == [stop - start for start, stop in expected["kv_range"]], expected["step"]
        if "next_free" in expected:
            assert tokens == expected["next_free"], expected["step"]
    check_choices(name, run.settings.compression, chosen(case, tensors))
