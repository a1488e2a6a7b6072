"""The picture shows what the trace says: colours of known cells, and what the charts are drawn from."""

from collections.abc import Callable

import numpy as np
import pytest

from flowcache_core.report.decision_map import legend_entries, read_decisions
from flowcache_core.report.palette import ACCENT, BACKGROUND, DECISIONS, EMPTY, FORCED
from flowcache_core.report.trace_charts import chunk_seconds, read_curves
from flowcache_core.report.trace_picture import WIDTH, layout_of, trace_picture
from flowcache_core.trace import LaneRecord, PassRecord, Trace

MakeTrace = Callable[..., Trace]


def lane(chunk: int, step: int, decision: str, reason: str = "threshold reached", **more: object) -> LaneRecord:
    return LaneRecord(chunk, step, **{"stream": "cond#0", "item": 0, **more}, decision=decision, reason=reason)


def colour_at(picture: np.ndarray, x: float, y: float) -> tuple[int, ...]:
    return tuple(int(v) for v in picture[round(y), round(x)])


def contains(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(axis=-1).any())


@pytest.mark.parametrize("decision", sorted(DECISIONS))
def test_cell_has_the_colour_of_its_decision(make_trace: MakeTrace, decision: str) -> None:
    trace = make_trace([lane(0, 0, "compute", "warm-up"), lane(1, 2, decision)], chunks=2, steps=3)
    grid, picture = layout_of(trace).grid, trace_picture(trace)
    assert colour_at(picture, *grid.middle(0, 0)) == FORCED
    assert colour_at(picture, *grid.middle(1, 2)) == DECISIONS[decision]
    assert colour_at(picture, *grid.middle(1, 0)) == EMPTY


@pytest.mark.parametrize("reason", ["warm-up", "last steps", "the plan must compute"])
def test_a_compute_the_policy_had_no_say_in_is_darker(make_trace: MakeTrace, reason: str) -> None:
    trace = make_trace([lane(0, 0, "compute", reason)], chunks=1, steps=1)
    assert colour_at(trace_picture(trace), *layout_of(trace).grid.middle(0, 0)) == FORCED


def test_streams_that_differ_split_the_cell(make_trace: MakeTrace) -> None:
    trace = make_trace([lane(0, 0, "reuse", stream="uncond#0"), lane(0, 0, "compute"),
                        lane(0, 1, "reuse"), lane(0, 1, "reuse", stream="uncond#0")], chunks=1, steps=2)
    grid, picture = layout_of(trace).grid, trace_picture(trace)
    x, y, width, height = grid.cell(0, 0)
    assert colour_at(picture, x + width / 2, y + height * 0.25) == DECISIONS["compute"]
    assert colour_at(picture, x + width / 2, y + height * 0.75) == DECISIONS["reuse"]
    x, y, width, height = grid.cell(0, 1)
    assert {colour_at(picture, x + width / 2, y + height * share) for share in (0.25, 0.75)} == {DECISIONS["reuse"]}
    assert read_decisions(trace).split


def test_legend_names_what_occurs_with_its_count(make_trace: MakeTrace) -> None:
    trace = make_trace([lane(0, 0, "compute", "warm-up"), lane(0, 1, "reuse"), lane(0, 2, "reuse")], chunks=1, steps=3)
    assert legend_entries(read_decisions(trace)) == [(FORCED, "always computed (warm-up, last steps, plan): 1"),
                                                     (DECISIONS["reuse"], "reused: 2")]


@pytest.mark.parametrize(("chunks", "steps"), [(1, 1), (1, 100), (64, 1), (64, 100)])
def test_every_size_fits(make_trace: MakeTrace, chunks: int, steps: int) -> None:
    trace = make_trace([lane(chunks - 1, steps - 1, "derive")], chunks, steps)
    layout, picture = layout_of(trace), trace_picture(trace)
    assert picture.shape == (round(layout.height), WIDTH, 3) and picture.dtype == np.uint8
    assert layout.grid.right < WIDTH - 200 and layout.grid.bottom < layout.charts_top
    assert min(layout.grid.cell_width, layout.grid.cell_height) >= 8
    assert colour_at(picture, *layout.grid.middle(chunks - 1, steps - 1)) == DECISIONS["derive"]
    assert colour_at(picture, 2, 2) == BACKGROUND


def test_a_run_without_a_pass_has_a_picture(make_trace: MakeTrace) -> None:
    trace = make_trace([], chunks=2, steps=3)
    assert colour_at(trace_picture(trace), *layout_of(trace).grid.middle(1, 1)) == EMPTY


def test_real_run(real_trace: Trace) -> None:
    decisions, grid, picture = read_decisions(real_trace), layout_of(real_trace).grid, trace_picture(real_trace)
    assert (grid.rows, grid.columns) == (3, 6)
    assert decisions.counts["forced"] and decisions.counts["reuse"]
    for (chunk, step), marks in decisions.marks.items():
        expected = FORCED if marks[0] == "forced" else DECISIONS[marks[0]]
        assert colour_at(picture, *grid.middle(chunk, step)) == expected


def test_curves_break_where_a_step_was_computed(make_trace: MakeTrace) -> None:
    values = [(1, 0.1, "reuse"), (2, 0.3, "compute"), (3, 0.1, "reuse"), (5, 0.2, "reuse")]
    trace = make_trace([lane(0, s, d, value=v, limit=0.25) for s, v, d in values], chunks=1, steps=6)
    (curve,), limits = read_curves(trace)
    assert curve.runs == (((1, 0.1), (2, 0.3)), ((3, 0.1),), ((5, 0.2),))
    assert curve.computed == {2} and limits == {0.25}
    assert contains(trace_picture(trace), ACCENT)


def test_chunks_with_the_same_numbers_share_a_curve(make_trace: MakeTrace) -> None:
    values = (0.1, 0.1, 0.2, 0.1)
    trace = make_trace([lane(c, 1, "reuse", value=v, limit=0.5) for c, v in enumerate(values)], chunks=4, steps=2)
    assert [curve.label for curve in read_curves(trace)[0]] == ["chunks 0, 1, 3", "chunk 2"]


def test_values_are_shares_where_chunks_have_limits_of_their_own(make_trace: MakeTrace) -> None:
    trace = make_trace([lane(0, 1, "reuse", value=0.1, limit=0.2), lane(1, 1, "reuse", value=0.1, limit=0.4)],
                       chunks=2, steps=2)
    curves, limits = read_curves(trace)
    assert [curve.runs for curve in curves] == [(((1, 0.5),),), (((1, 0.25),),)]
    assert limits == {0.2, 0.4}


def test_a_joint_pass_is_shared_out_and_other_passes_stand_apart(make_trace: MakeTrace) -> None:
    trace = make_trace([lane(0, 0, "compute")], chunks=2, steps=1)
    trace.passes += [PassRecord(1, "denoise", (0, 1), (0, 0), 3.0, 0.0, 1, 0, 0),
                     PassRecord(1, "commit", (1,), (), 0.25, 0.0, 1, 0, 0)]
    assert chunk_seconds(trace) == [(2.5, 0.0), (1.5, 0.25)]


def test_peak_of_the_cache_is_marked_only_where_there_is_a_cache(make_trace: MakeTrace) -> None:
    lanes = [lane(0, s, "compute") for s in range(3)]
    assert contains(trace_picture(make_trace(lanes, 1, 3)), ACCENT)
    assert not contains(trace_picture(make_trace(lanes, 1, 3, kv_tokens=0)), ACCENT)
