"""What every plan must keep, whatever the lengths: each step once and in order, nothing read before it is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache_core.plan import (
    History,
    dense,
    diffusion_forcing,
    pipelined,
    rolling,
    sequential,
    split_frames,
    step_table,
)
from tests.plan.strategies import all_plans, causal_plans, histories, lengths
from tests.reference import PROPERTY


@PROPERTY
@given(all_plans)
def test_every_chunk_takes_every_step_once_and_in_order(plan):
    taken = {c.index: [] for c in plan.chunks}
    for p in plan.passes():
        assert (len(p.steps) == len(p.chunks)) if p.kind in ("denoise", "near_clean") else not p.steps
        for chunk, step in zip(p.chunks, p.steps if p.kind == "denoise" else (), strict=False):
            taken[chunk].append(step)
    assert taken == {c.index: list(range(plan.steps_of(c.index))) for c in plan.chunks}
    assert plan.chunk_steps() == sum(map(len, taken.values()))


@PROPERTY
@given(all_plans)
def test_chunks_tile_the_video(plan):
    assert [c.index for c in plan.chunks] == list(range(len(plan.chunks)))
    assert [f for c in plan.chunks for f in range(c.start, c.stop)] == list(range(plan.frames))
    assert len({c.frames for c in plan.chunks[:-1]}) <= 1
    assert all(1 <= plan.chunks[-1].frames <= c.frames for c in plan.chunks)
    for p in plan.passes():
        frames = [f for c in p.chunks for f in range(plan.chunks[c].start, plan.chunks[c].stop)]
        assert plan.frame_index(p) == tuple(frames)


@PROPERTY
@given(causal_plans)
def test_no_chunk_runs_ahead_of_its_predecessor(plan):
    done = [plan.steps_of(c.index) if c.index < plan.prefix_chunks else 0 for c in plan.chunks]
    for p in plan.passes():
        for chunk, step in zip(p.chunks, p.steps if p.kind == "denoise" else (), strict=False):
            if chunk:
                assert done[chunk - 1] >= min(step + 1, plan.steps_of(chunk - 1))
            done[chunk] = step + 1


@PROPERTY
@given(all_plans)
def test_no_pass_reads_what_is_not_written(plan):
    written = set()
    for p in plan.passes():
        assert set(p.reads) <= written
        assert set(p.writes) <= set(p.chunks)
        assert not set(p.reads) & set(p.chunks)
        assert list(p.reads) == sorted(set(p.reads)) and list(p.chunks) == sorted(set(p.chunks))
        assert all(r < p.chunks[0] for r in p.reads), "a pass reads a later chunk"
        written |= set(p.writes)


@PROPERTY
@given(causal_plans)
def test_every_pass_of_a_causal_plan_stores_its_own_chunk(plan):
    for p in plan.passes():
        assert not p.joint
        assert p.writes == (() if p.kind == "near_clean" else p.chunks)


@PROPERTY
@given(all_plans)
def test_prefix_and_commit_passes_must_compute_and_denoising_passes_need_not(plan):
    assert all(p.must_compute == (p.kind in ("prefix", "commit")) for p in plan.passes() if p.kind != "near_clean")


@PROPERTY
@given(all_plans)
def test_prefix_chunks_run_once_and_before_everything_else(plan):
    kinds = [(p.kind, p.chunks) for p in plan.passes()]
    assert kinds[:plan.prefix_chunks] == [("prefix", (c,)) for c in range(plan.prefix_chunks)]
    assert all(kind != "prefix" for kind, _ in kinds[plan.prefix_chunks:])


@PROPERTY
@given(all_plans)
def test_a_chunk_is_committed_at_most_once_and_after_its_last_step(plan):
    done, committed = [plan.steps_of(c.index) == 0 for c in plan.chunks], []
    for p in plan.passes():
        if p.kind == "commit":
            assert done[p.chunks[0]]
            committed.append(p.chunks[0])
        for chunk, step in zip(p.chunks, p.steps if p.kind == "denoise" else (), strict=False):
            done[chunk] = step == plan.steps_of(chunk) - 1
    assert len(committed) == len(set(committed))


@pytest.mark.parametrize("plan", [diffusion_forcing(9, 2, 4, 2, prefix_chunks=1, commit=True),
                                  sequential(9, 2, 4, prefix_chunks=1), rolling(9, 2, 3)], ids=lambda plan: plan.name)
def test_where_asked_for_every_denoised_chunk_is_committed(plan):
    committed = [p.chunks[0] for p in plan.passes() if p.kind == "commit"]
    assert committed == list(range(plan.prefix_chunks, 5))


def test_a_pipeline_commits_every_chunk_that_a_later_one_still_reads():
    plan = pipelined(8, 2, 4, 2, commit=True)
    commits = [(number, p.chunks[0]) for number, row in enumerate(plan.rows) for p in row if p.kind == "commit"]
    assert commits == [(4, 0), (6, 1), (8, 2)]


@PROPERTY
@given(all_plans)
def test_last_use_is_the_last_row_that_names_the_chunk(plan):
    expected = {}
    for number, row in enumerate(plan.rows):
        assert row, "an empty row"
        for p in row:
            for chunk in (*p.reads, *p.writes):
                expected[chunk] = number
    assert plan.last_use() == expected


@PROPERTY
@given(all_plans)
def test_most_in_flight_counts_the_fullest_row(plan):
    rows = [{c for p in row if p.kind == "denoise" for c in p.chunks} for row in plan.rows]
    assert plan.most_in_flight() == max(map(len, rows))


@PROPERTY
@given(histories, st.integers(0, 8))
def test_history_is_the_sink_and_the_recent_chunks(history, chunk):
    expected = [c for c in range(chunk)
                if history.recent is None or c < history.sink or c >= chunk - history.recent]
    assert list(history.before(chunk)) == expected


@PROPERTY
@given(lengths(), st.integers(1, 8), st.integers(1, 9), st.integers(0, 2))
def test_a_base_window_hides_what_left_it_but_for_the_sink(length, steps, ar_step, sink):
    frames, chunk_frames, chunks = length
    base = -(-steps // ar_step)
    plan = diffusion_forcing(frames, chunk_frames, steps, ar_step, base_chunks=base, history=History(sink=sink))
    table = step_table(chunks, steps, ar_step, base_chunks=base)
    for row, (first, stop) in zip(plan.rows, table.valid, strict=True):
        assert stop - first <= base
        for p in row:
            assert first <= p.chunks[0] < stop
            assert p.reads == tuple(c for c in range(p.chunks[0]) if c >= first or c < sink)


def test_the_first_chunk_may_take_other_steps():
    plan = sequential(3, 1, 2, first_steps=4)
    assert [plan.steps_of(c) for c in range(3)] == [4, 2, 2]
    assert plan.chunk_steps() == 8


def test_the_dense_plan_runs_everything_at_once_and_stores_nothing():
    plan = dense(5, 2, 3)
    passes = [(p.chunks, p.steps, p.reads, p.writes) for p in plan.passes()]
    assert passes == [((0, 1, 2), (s,) * 3, (), ()) for s in range(3)]


def test_the_rolling_window_by_hand():
    plan = rolling(4, 1, 2)
    denoise = [(p.chunks, p.steps, p.reads) for p in plan.passes() if p.kind == "denoise"]
    assert denoise == [((0,), (0,), ()), ((0, 1), (1, 0), ()), ((1, 2), (1, 0), (0,)), ((2, 3), (1, 0), (0, 1)),
                       ((3,), (1,), (0, 1, 2))]


def test_the_pipelined_window_by_hand():
    plan = pipelined(3, 1, 4, 2)
    rows = [[(p.chunks[0], p.steps[0]) for p in row] for row in plan.rows]
    assert rows == [[(0, 0)], [(0, 1)], [(0, 2), (1, 0)], [(0, 3), (1, 1)], [(1, 2), (2, 0)], [(1, 3), (2, 1)],
                    [(2, 2)], [(2, 3)]]


def test_the_near_clean_pass_belongs_to_the_oldest_chunk_and_stores_nothing():
    plan = pipelined(3, 1, 4, 2, near_clean_from=3)
    assert [(number, p.chunks, p.reads, p.writes) for number, row in enumerate(plan.rows)
            for p in row if p.kind == "near_clean"] == [(3, (0,), (), ()), (5, (1,), (), ()), (7, (2,), (), ())]


@pytest.mark.parametrize(("make", "value"), [
    (lambda: split_frames(0, 3), "0 latent frames"),
    (lambda: split_frames(5, 0), "chunk_frames 0"),
    (lambda: History(recent=-1), "-1"),
    (lambda: History(sink=-2), "-2"),
    (lambda: dense(4, 2, 0), "0 steps"),
    (lambda: rolling(4, 2, -1), "-1 steps"),
    (lambda: sequential(4, 2, 0), "0 steps"),
    (lambda: sequential(4, 2, 3, first_steps=0), "0 steps"),
    (lambda: sequential(4, 2, 3, prefix_chunks=2), "2 prefix chunks of 2"),
    (lambda: sequential(4, 2, 3, prefix_chunks=-1), "-1 prefix chunks"),
    (lambda: pipelined(4, 2, 7, 2), "7 steps"),
    (lambda: pipelined(4, 2, 4, 0), "window of 0"),
    (lambda: pipelined(4, 2, 6, 2, ranges=(5, 4, 3, 2)), "as divide the steps"),
    (lambda: pipelined(4, 2, 4, 2, ranges=(2, 0)), "at least 1"),
    (lambda: pipelined(4, 2, 4, 2, history=History(1), ranges=(2, 1)), "give one of the two"),
    (lambda: pipelined(4, 2, 4, 2, prefix_chunks=3), "3 prefix chunks"),
    (lambda: diffusion_forcing(4, 2, 0, 1), "0 steps"),
    (lambda: diffusion_forcing(4, 2, 3, -1), "ar_step -1"),
    (lambda: diffusion_forcing(4, 2, 3, 1, prefix_chunks=2), "2 prefix chunks of 2"),
    (lambda: diffusion_forcing(4, 2, 3, 1, prefix_chunks=-1), "-1 prefix chunks"),
    (lambda: diffusion_forcing(8, 2, 10, 4, base_chunks=2), "ar_step 4"),
    (lambda: diffusion_forcing(8, 2, 10, 4, base_chunks=0), "base window of 0"),
])
def test_a_plan_that_cannot_be_made_says_why_in_one_sentence(make, value):
    with pytest.raises(ValueError, match=r"\w") as error:
        make()
    assert value in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("chunks", "steps", "window", "given"), [(8, 16, 4, 0), (6, 64, 4, 1), (3, 8, 4, 0)])
def test_ranges_by_quarter_of_the_steps(chunks, steps, window, given):
    """As MAGI-1 was released: clean chunks see themselves alone, and of what is finished only the last is read."""
    plan = pipelined(6 * chunks, 6, steps, window, given, commit=True, ranges=(5, 4, 3, 2))
    finished = set(range(given))
    for row in plan.rows:
        for p in row:
            c = p.chunks[0]
            assert p.reads == (tuple(range(max(0, c + 1 - (5 - p.steps[0] // (steps // 4))), c)) if p.kind == "denoise"
                               else ())
            assert finished.intersection(p.reads) <= {max(finished, default=-1)}
        finished |= {c for p in row if p.kind == "denoise" for c, s in p.moves if s == steps - 1}
    plain = pipelined(6 * chunks, 6, steps, window, given, commit=True)
    assert [[p.moves for p in row] for row in plan.rows] == [[p.moves for p in row] for row in plain.rows]
    assert pipelined(6 * chunks, 6, steps, window, given, commit=True, ranges=(chunks,)).rows[-1] == plain.rows[-1]
