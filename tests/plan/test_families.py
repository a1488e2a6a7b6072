"""The plans of the families by hand: moving sinks, recaching, dense pyramids, Rolling-Forcing's window, end frames."""

import pytest

from flowcache_core.plan import History, dense, diffusion_forcing, rolling, sequential, with_end_frame

LONGLIVE = History(recent=2, sink=1)   # window 12 and sink 3 in frames, chunks of 3


def test_longlive_sees_the_sink_and_nine_frames_its_own_included():
    plan = sequential(24, 3, 4, history=LONGLIVE)
    seen = {p.chunks[0]: sum(plan.chunks[c].frames for c in (*p.reads, *p.chunks)) for p in plan.passes()}
    assert seen == {0: 3, 1: 6, 2: 9, 3: 12, 4: 12, 5: 12, 6: 12, 7: 12}


@pytest.mark.parametrize(("switch", "expected"), [(1, None), (2, (1,)), (4, (1, 2, 3)), (6, (3, 4, 5))])
def test_a_joint_recache_rewrites_the_window_but_not_the_sink(switch, expected):
    passes = [p for p in sequential(24, 3, 4, history=LONGLIVE, switches=[switch]).passes() if p.kind == "recache"]
    assert [p.chunks for p in passes] == ([expected] if expected else [])
    for p in passes:
        assert (p.reads, p.writes, p.prompt, p.must_compute) == ((0,), expected, switch, True)


def test_a_recache_comes_right_before_its_chunk_and_a_causal_one_goes_chunk_by_chunk():
    plan = sequential(12, 2, 1, history=LONGLIVE, switches=[5], recache="causal", commit=False)
    kinds = [(p.kind, p.chunks, p.reads) for p in plan.passes()][5:]
    assert kinds == [("recache", (2,), (0,)), ("recache", (3,), (0, 2)), ("recache", (4,), (0, 2, 3)),
                     ("denoise", (5,), (0, 3, 4))]


def test_a_renewed_sink_is_the_first_chunk_of_the_recached_window():
    plan = sequential(24, 3, 1, history=LONGLIVE, switches=[5], renew_sink=True, commit=False)
    seen = {(p.kind, p.chunks): (p.reads, p.writes) for p in plan.passes()}
    assert seen["recache", (1, 2, 3, 4)] == ((), (1, 2, 3, 4))
    assert [seen["denoise", (c,)][0] for c in (4, 5, 6, 7)] == [(0, 2, 3), (1, 3, 4), (1, 4, 5), (1, 5, 6)]


def test_without_a_window_everything_is_recached():
    p = next(p for p in sequential(8, 2, 1, switches=[3]).passes() if p.kind == "recache")
    assert (p.chunks, p.reads) == ((0, 1, 2), ())


@pytest.mark.parametrize(("chunk", "moved"), [(1, {}), (3, {}), (4, {0: 2}), (7, {0: 8})])
def test_a_moving_sink_lies_right_before_the_first_recent_chunk(chunk, moved):
    plan = sequential(16, 2, 1, history=History(2, 1, rebase=True))
    assert all(plan.moved(p) == moved for p in plan.passes() if p.chunks == (chunk,))
    fixed = sequential(16, 2, 1, history=History(2, 1))
    assert not any(fixed.moved(p) for p in fixed.passes())


def test_a_sink_without_recent_chunks_lies_right_before_the_chunk_itself():
    plan = sequential(12, 2, 1, history=History(0, 2, rebase=True))
    assert [plan.moved(p) for p in plan.passes() if p.chunks == (4,)] == [{0: 4, 1: 4}] * 2


def test_the_dense_pyramid_forwards_everything_in_every_row():
    plan = dense(3, 1, 4, ar_step=2, prefix_chunks=1)
    rows = [(p.steps, p.still) for p in plan.passes()]
    assert rows == [((4, 0, -1), (0, 2)), ((4, 1, -1), (0, 2)), ((4, 2, 0), (0,)), ((4, 3, 1), (0,)),
                    ((4, 4, 2), (0, 1)), ((4, 4, 3), (0, 1))]
    assert plan.chunk_steps() == 8 and plan.most_in_flight() == 2
    assert all(p.chunks == (0, 1, 2) and not p.reads and not p.writes for p in plan.passes())


def test_rolling_forcing_by_hand():
    """Windows of 5 chunks, at most 7 chunks seen: the anchor and one recent chunk, more of them at the end."""
    plan = rolling(30, 3, 5, History(sink=1, rebase=True), most=7, commit_history=History(recent=6))
    joint = {p.chunks: (p.reads, plan.moved(p)) for p in plan.passes() if p.kind == "denoise"}
    assert joint[0, 1, 2, 3, 4] == ((), {})
    assert joint[1, 2, 3, 4, 5] == ((0,), {})
    assert joint[2, 3, 4, 5, 6] == ((0, 1), {})
    assert joint[4, 5, 6, 7, 8] == ((0, 3), {0: 6})
    assert joint[6, 7, 8, 9] == ((0, 4, 5), {0: 9})
    assert joint[9,] == ((0, 4, 5, 6, 7, 8), {0: 9})
    commits = {p.chunks[0]: p.reads for p in plan.passes() if p.kind == "commit"}
    assert commits[3] == (0, 1, 2) and commits[9] == (3, 4, 5, 6, 7, 8) and list(commits) == list(range(10))


def test_an_end_frame_is_in_every_joint_pass_and_takes_no_step():
    plan = with_end_frame(dense(5, 2, 3))
    assert (len(plan.chunks), plan.frames, plan.steps_of(3), plan.end_chunks) == (4, 5, 0, 1)
    assert all(p.chunks == (0, 1, 2, 3) and p.still == (3,) for p in plan.passes())
    assert plan.frame_index(next(plan.passes())) == (0, 1, 2, 3, 4, 5)
    assert plan.chunk_steps() == 9


def test_an_end_frame_of_a_causal_plan_is_stored_first_and_read_by_all():
    plan = with_end_frame(diffusion_forcing(6, 2, 4, 2, prefix_chunks=1))
    first, *others = plan.passes()
    assert (first.kind, first.chunks, first.reads, first.writes) == ("prefix", (3,), (), (3,))
    assert all(p.reads[-1] == 3 for p in others)


@pytest.mark.parametrize(("make", "value"), [
    (lambda: with_end_frame(sequential(4, 2, 2)), "plan sequential"),
    (lambda: with_end_frame(diffusion_forcing(4, 2, 2, 1, history=History(1, 1, True))), "sink that moves"),
    (lambda: rolling(30, 3, 5, History(sink=1), most=5), "expected at least 6"),
    (lambda: sequential(8, 2, 1, switches=[2], recache="twice"), "'twice'"),
    (lambda: dense(4, 2, 3, ar_step=-1), "ar_step of 0")])
def test_what_cannot_be_is_said_in_one_sentence(make, value):
    with pytest.raises(ValueError, match=r"\w") as error:
        make()
    assert value in str(error.value) and "\n" not in str(error.value)
