"""Marks follow their tokens through any number of compressions, and a new chunk inherits none."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowcache_core.kv import Kept, KVShape, KVStore
from tests.reference import PROPERTY, normal

SHAPE = KVShape(layers=2, streams=1, items=2, heads=2, head_dim=4, bytes_per_number=4)
PLACES, TOKENS = [(0, "cond#0"), (1, "cond#0")], 3


def filled(chunks=4, marks=("log_m", "score")):
    store = KVStore(SHAPE, ("cond#0",), 12, torch.float32, "cpu", marks)
    for chunk in range(chunks):
        land(store, chunk)
    return store


def land(store, chunk):
    store.reserve(chunk, TOKENS, TOKENS * chunk)
    for layer, stream in PLACES:
        x = normal(2, 2, TOKENS, 4, seed=chunk)
        store.write(layer, stream, chunk, x, x)


def keep_and_mark(before, expected, index, number, keys, values, positions):
    known = [[[expected.get(p, 0.0) for p in row] for row in item] for item in positions.tolist()]
    assert before.tolist() == known
    return Kept(index, None, {} if number is None else {"score": positions.gather(-1, index) * 10.0 + number})


@PROPERTY
@given(st.lists(st.tuples(st.integers(1, 2), st.booleans(), st.randoms(use_true_random=False)), min_size=1, max_size=5))
def test_marks_stay_with_their_tokens(events):
    """Against a dict by position: every token that is marked again gets a number made of its position."""
    store, landed, expected = filled(), 4, {}
    for number, (count, mark, random) in enumerate(events):
        folding = list(store.chunks)[:2]
        total = (store.layout.folded.tokens if store.layout.folded else 0) + TOKENS * len(folding)
        keep = max(1, total - TOKENS * count)
        index = torch.tensor(sorted(random.sample(range(total), keep))).expand(2, 2, -1)
        store.fold(folding, keep)
        for place in PLACES:
            before = store.pending_marks(*place)["score"]
            store.settle(*place, partial(keep_and_mark, before, expected, index, number if mark else None))
        positions = store.folded_positions(*PLACES[0])[0, 0].tolist()
        expected = {p: 10.0 * p + number if mark else expected.get(p, 0.0) for p in positions}
        store.check_integrity()
        while store.tokens + TOKENS <= store.capacity:
            land(store, landed)
            landed += 1


def test_a_chunk_that_lands_before_the_compression_is_settled_leaves_the_old_marks():
    """As in a run: room is given first, each layer settles when its turn comes, and writes then."""
    store = filled(4)
    for place in PLACES:
        for chunk in range(4):
            store.mark(*place, chunk, "score", torch.tensor([[1.0, 2, 3]] * 2) + 10 * chunk)
    store.fold([0, 1, 2], 3)
    store.reserve(4, TOKENS, TOKENS * 4)
    index = torch.tensor([2, 5, 8]).expand(2, 2, -1)
    for place in PLACES:
        store.settle(*place, lambda k, v, p: index)
        x = normal(2, 2, TOKENS, 4)
        store.write(*place, 4, x, x)
        assert store.marks.read(place, "score", store.layout.folded.spans)[0, 0].tolist() == [3.0, 13.0, 23.0]
        assert store.marks.read(place, "score", store.layout.slot(4).spans).abs().sum() == 0


def test_values_are_replaced_and_weights_read_with_the_keys():
    store = filled(2)
    assert store.log_m(0, "cond#0", (0, 1)) is None
    store.fold([0], 2)
    values, log_m = normal(2, 2, 2, 4, seed=9), torch.rand(2, 2, 2)
    for place in PLACES:
        store.settle(*place, lambda k, v, p: Kept(torch.tensor([0, 2]).expand(2, 2, -1), values, {"log_m": log_m}))
    assert torch.equal(store.read(0, "cond#0", (0,))[1], values)
    found = store.log_m(0, "cond#0", (0, 1))
    assert torch.equal(found, torch.cat([log_m, torch.zeros(2, 2, TOKENS)], dim=-1))
    assert found.shape[-1] == store.read(0, "cond#0", (0, 1))[0].shape[2]


def test_a_chunk_inherits_no_weight_of_what_was_in_its_slot():
    store = filled(1)
    store.fold([0], 2)
    for place in PLACES:
        store.settle(*place, lambda k, v, p: Kept(torch.tensor([0, 2]).expand(2, 2, -1), None,
                                                  {"log_m": torch.ones(2, 2, 2)}))
    store.fold([], 1)
    for place in PLACES:
        store.settle(*place, lambda k, v, p: torch.zeros(2, 2, 1, dtype=torch.long))
    land(store, 1)
    assert store.log_m(0, "cond#0", (1,)).abs().sum() == 0
    assert store.log_m(0, "cond#0", (0,)).tolist() == torch.ones(2, 2, 1).tolist()


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_cannot_be_is_found(bad):
    store = filled(1)
    store.fold([0], 1)
    for place in PLACES:
        store.settle(*place, lambda k, v, p: Kept(torch.zeros(2, 2, 1, dtype=torch.long), None,
                                                  {"log_m": torch.full((2, 2, 1), bad)}))
    with pytest.raises(RuntimeError, match="log_m"):
        store.check_integrity()
