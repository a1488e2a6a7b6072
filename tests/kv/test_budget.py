"""Budgets, in ints: units, the least possible one, and which chunks live in the cache pass by pass."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from flowcache_core.kv import KVBudget, KVShape, KVStore, Residency, capacity, least_tokens
from flowcache_core.plan import History, dense, diffusion_forcing, pipelined, sequential
from tests.plan.strategies import all_plans
from tests.reference import PROPERTY

SHAPE = KVShape(layers=30, streams=2, items=1, heads=12, head_dim=128, bytes_per_number=2)
SMALL = KVShape(layers=1, streams=1, items=1, heads=1, head_dim=1, bytes_per_number=4)
PER_FRAME = 3
pins = st.tuples(st.integers(0, 2), st.integers(0, 3))


@pytest.mark.parametrize(("amount", "unit", "tokens"), [
    (None, "chunks", None), (100, "tokens", 100), (2, "chunks", 3000), (1.5, "chunks", 2250),
    (368.64, "MB", 1000), (368.63, "MB", 999), (0.36864, "GB", 1000), (1, "GB", 2712)])
def test_units(amount, unit, tokens):
    """A token of this shape costs 2 * 30 * 2 * 12 * 128 * 2 = 368,640 bytes."""
    assert SHAPE.bytes_per_token == 368_640
    assert KVBudget(amount, unit).tokens(1500, SHAPE) == tokens


@pytest.mark.parametrize(("settings", "value"), [
    ({"amount": 0}, "0"), ({"amount": -2}, "-2"), ({"amount": float("nan")}, "nan"), ({"amount": float("inf")}, "inf"),
    ({"amount": 1, "unit": "KB"}, "'KB'"), ({"sink_chunks": -1}, "-1"), ({"recent_chunks": -3}, "-3")])
def test_budgets_that_cannot_be_say_why(settings, value):
    with pytest.raises(ValueError, match=value):
        KVBudget(**settings)


def walk(plan, budget, limit):
    """(row, pass, chunks that leave, chunks in the cache) of every pass."""
    residency = Residency(plan, budget, PER_FRAME, limit)
    for number, row in enumerate(plan.rows):
        gone = residency.expire(number)
        for p in row:
            gone += residency.admit(p, number).evicted
            yield number, p, gone, list(residency.resident)
            gone = ()


def runs(plan, budget, limit) -> bool:
    try:
        list(walk(plan, budget, limit))
    except ValueError:
        return False
    return True


@PROPERTY
@given(all_plans, pins)
def test_the_least_budget_is_the_smallest_that_runs(plan, pinned):
    budget = KVBudget(None, "tokens", *pinned)
    least = least_tokens(plan, budget, PER_FRAME)
    peak = capacity(plan, budget, PER_FRAME, SMALL)
    assert [runs(plan, budget, limit) for limit in range(peak + 3)] == [limit >= least for limit in range(peak + 3)]


@PROPERTY
@given(all_plans, pins, st.floats(0, 1.2))
def test_residents_keep_the_budget_and_what_is_pinned_or_in_flight_stays(plan, pinned, share):
    budget = KVBudget(None, "tokens", *pinned)
    least, peak = least_tokens(plan, budget, PER_FRAME), capacity(plan, budget, PER_FRAME, SMALL)
    limit = least + int(share * (peak - least))
    last_use, last_write = plan.last_use(), {c: n for n, row in enumerate(plan.rows) for p in row for c in p.writes}
    before: list[int] = []
    for number, p, gone, resident in walk(plan, budget, limit):
        assert resident == sorted(set(resident)) and set(p.writes) <= set(resident)
        assert sum(plan.chunks[c].frames * PER_FRAME for c in resident) <= limit
        assert set(before) - set(resident) == set(gone)
        for chunk in (c for c in gone if last_use[c] >= number):   # those that leave although they are still of use
            assert last_write[chunk] < number, "a chunk in flight left"
            assert chunk >= budget.sink_chunks
            finished = [c for c in before if last_write[c] < number and c not in p.chunks and last_use[c] >= number]
            newest = finished[len(finished) - budget.recent_chunks:] if budget.recent_chunks else []
            assert chunk not in newest
            older = [c for c in finished if c < chunk]
            assert all(c in gone or c < budget.sink_chunks or c in newest for c in older), "not the oldest"
        before = resident


@PROPERTY
@given(all_plans, pins)
def test_a_budget_of_the_peak_lets_every_chunk_live_until_its_last_use(plan, pinned):
    budget = KVBudget(None, "tokens", *pinned)
    peak = capacity(plan, budget, PER_FRAME, SMALL)
    assert list(walk(plan, budget, peak)) == list(walk(plan, budget, None))
    last_use = plan.last_use()
    assert all(last_use[c] < number for number, _, gone, _ in walk(plan, budget, peak) for c in gone)


@PROPERTY
@given(all_plans, pins, st.floats(0, 1))
def test_a_store_of_that_capacity_never_runs_out_of_room(plan, pinned, share):
    """Neither by count nor by gaps that are too short."""
    free = KVBudget(None, "tokens", *pinned)
    least, peak = least_tokens(plan, free, PER_FRAME), capacity(plan, free, PER_FRAME, SMALL)
    limit = least + int(share * (peak - least))
    assume(limit > 0)
    budget = KVBudget(limit, "tokens", *pinned)
    room = capacity(plan, budget, PER_FRAME, SMALL)
    assert room <= limit
    store, highest = KVStore(SMALL, ("cond#0",), room, torch.float32, "cpu"), 0
    for _, _, gone, resident in walk(plan, budget, limit):
        for chunk in gone:
            store.release(chunk)
        for chunk in resident:
            if chunk not in store.chunks:
                store.reserve(chunk, plan.chunks[chunk].frames * PER_FRAME, plan.chunks[chunk].start * PER_FRAME)
        store.check_integrity()
        assert list(store.chunks) == resident
        highest = max(highest, store.tokens)
    assert highest == room, "no more is allocated than is used"


@pytest.mark.parametrize(("plan", "pinned", "least"), [
    (sequential(10, 2, 3), (0, 0), 1), (sequential(10, 2, 3), (1, 0), 2), (sequential(10, 2, 3), (1, 2), 4),
    (sequential(10, 2, 3, history=History(recent=1)), (0, 0), 1), (dense(10, 2, 3), (0, 0), 0),
    (diffusion_forcing(10, 2, 10, 2), (0, 0), 5), (diffusion_forcing(10, 2, 8, 4), (0, 0), 2),
    (pipelined(10, 2, 8, 4), (0, 0), 4), (pipelined(10, 2, 8, 4, commit=True), (0, 0), 5)])
def test_the_least_budget_by_hand_in_chunks(plan, pinned, least):
    """What is in flight in one row, what is pinned, and the chunk that lands."""
    assert least_tokens(plan, KVBudget(None, "chunks", *pinned), PER_FRAME) == least * 2 * PER_FRAME


@pytest.mark.parametrize("unit", ["tokens", "chunks", "MB"])
def test_a_budget_below_the_least_names_it(unit):
    plan = diffusion_forcing(10, 2, 10, 2)   # five chunks in flight: 30 tokens
    amount = {"tokens": 29, "chunks": 4.9, "MB": 29 * SMALL.bytes_per_token / 1e6}[unit]
    with pytest.raises(ValueError, match=r"needs at least 30 tokens \(5\.00 chunks\)") as error:
        capacity(plan, KVBudget(amount, unit), PER_FRAME, SMALL)
    assert str(amount) in str(error.value) and unit in str(error.value)
    assert capacity(plan, KVBudget(30, "tokens"), PER_FRAME, SMALL) == 30


def test_the_oldest_finished_chunk_leaves_first_and_the_sink_stays():
    plan = sequential(6, 1, 1, commit=False)
    resident = [chunks for *_, chunks in walk(plan, KVBudget(3, "chunks", sink_chunks=1), 3 * PER_FRAME)]
    assert resident == [[0], [0, 1], [0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5]]
