"""The KV store against a dict of copies, in poisoned memory: what was never written must never be read."""

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowcache_core.kv import KVShape, KVStore, Slot
from tests.reference import PROPERTY, ListStore, normal

SHAPE = KVShape(layers=2, streams=2, items=2, heads=2, head_dim=3, bytes_per_number=4)
STREAMS, CAPACITY, CHUNK = ("cond#0", "uncond#0"), 11, 4   # a chunk has at most CHUNK tokens
PLACES = [(layer, stream) for layer in range(2) for stream in STREAMS]


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Uninitialised memory is full of NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(64).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


def new_store(capacity: int = CAPACITY) -> KVStore:
    return KVStore(SHAPE, STREAMS, capacity, torch.float32, "cpu")


def fill(store, chunk, tokens, seed=0):
    store.reserve(chunk, tokens, chunk * CHUNK)
    for layer, stream in PLACES:
        store.write(layer, stream, chunk, normal(2, 2, tokens, 3, seed=seed), normal(2, 2, tokens, 3, seed=seed + 1))


operations = st.lists(st.tuples(st.sampled_from(["reserve", "reserve", "write", "write", "read", "release"]),
                                st.integers(0, 5), st.integers(1, CHUNK), st.sampled_from(PLACES),
                                st.sampled_from([None, (0,), (1,), (0, 1)]), st.sets(st.integers(0, 5))), max_size=40)


@PROPERTY
@given(operations)
def test_any_sequence_of_operations_equals_a_dict_of_copies(operations):
    store, naive = new_store(), ListStore()
    for number, (operation, chunk, tokens, place, items, wanted) in enumerate(operations):
        if operation == "reserve" and chunk not in naive.sizes:
            if store.tokens + tokens <= store.capacity:
                store.reserve(chunk, tokens, chunk * CHUNK)
                naive.sizes[chunk] = tokens
            else:
                with pytest.raises(ValueError, match=f"no room for {tokens} tokens"):
                    store.reserve(chunk, tokens, chunk * CHUNK)
        elif operation == "write" and chunk in naive.sizes:
            items = items if (*place, chunk) in naive.data else None
            chosen = (0, 1) if items is None else items
            keys, values = (normal(len(chosen), 2, naive.sizes[chunk], 3, seed=2 * number + n) for n in (0, 1))
            store.write(*place, chunk, keys, values, None if items is None else torch.tensor(items))
            naive.write(*place, chunk, keys, values, chosen)
        elif operation == "release" and chunk in naive.sizes:
            store.release(chunk)
            naive.release(chunk)
        elif operation == "read":
            expected = naive.read(*place, wanted)
            keys, values = store.read(*place, wanted)
            if expected is None:
                assert keys.shape == values.shape == (2, 2, 0, 3)
            else:
                assert torch.equal(keys, expected[0]) and torch.equal(values, expected[1])
        store.check_integrity()
        assert store.chunks == tuple(sorted(naive.sizes))
        assert store.tokens == sum(naive.sizes.values()) <= CAPACITY
        positions = store.positions(store.chunks)
        assert positions == [c * CHUNK + n for c in sorted(naive.sizes) for n in range(naive.sizes[c])]


def test_reads_come_in_ascending_position_whatever_the_slots():
    store = new_store()
    for chunk in (0, 1, 2):
        fill(store, chunk, 3, seed=10 * chunk)
    store.release(0)
    fill(store, 3, 3, seed=30)   # lands in the slot of chunk 0
    keys, _ = store.read(0, STREAMS[0], (3, 2, 1))
    assert torch.equal(keys, torch.cat([normal(2, 2, 3, 3, seed=10 * c) for c in (1, 2, 3)], dim=2))
    assert store.positions((3, 1, 2)) == [4, 5, 6, 8, 9, 10, 12, 13, 14]


def test_adjacent_slots_are_read_without_a_copy():
    store = new_store()
    fill(store, 0, 3)
    fill(store, 1, 3)
    keys, values = store.read(0, STREAMS[0], (0, 1))
    assert keys.data_ptr() == store._keys[0, STREAMS[0]].parts[0].data_ptr()
    assert values.data_ptr() == store._values[0, STREAMS[0]].parts[0].data_ptr()


def test_what_is_reserved_and_not_written_is_not_read():
    store = new_store()
    fill(store, 0, 3)
    store.reserve(1, 3, CHUNK)
    store.write(0, STREAMS[0], 1, normal(2, 2, 3, 3), normal(2, 2, 3, 3))
    assert [store.read(layer, stream, (0, 1))[0].shape[2] for layer, stream in PLACES] == [6, 3, 3, 3]
    assert all(store.read(*place, (0, 1))[0].isfinite().all() for place in PLACES)


def test_a_new_chunk_in_an_old_slot_does_not_inherit_its_keys():
    store = new_store()
    fill(store, 0, 3)
    store.release(0)
    store.reserve(1, 3, CHUNK)
    assert store.read(0, STREAMS[0], (0, 1))[0].shape[2] == 0


def test_streams_layers_and_items_are_apart():
    store = new_store()
    fill(store, 0, 2)
    before = {place: [t.clone() for t in store.read(*place, (0,))] for place in PLACES}
    ones = torch.ones(1, 2, 2, 3)
    store.write(1, STREAMS[1], 0, ones, 2 * ones, torch.tensor([1]))
    for place in PLACES[:-1]:
        assert all(torch.equal(a, b) for a, b in zip(store.read(*place, (0,)), before[place], strict=True))
    keys, values = store.read(1, STREAMS[1], (0,))
    assert torch.equal(keys[0], before[1, STREAMS[1]][0][0]) and torch.equal(keys[1:], ones)
    assert torch.equal(values[1:], 2 * ones)


def test_keys_are_stored_in_the_dtype_of_the_store():
    store = KVStore(SHAPE, STREAMS, 4, torch.bfloat16, "cpu")
    store.reserve(0, 4, 0)
    keys = normal(2, 2, 4, 3)
    for items in (None, torch.tensor([0, 1])):
        store.write(0, STREAMS[0], 0, keys, keys, items)
        assert torch.equal(store.read(0, STREAMS[0], (0,))[0], keys.bfloat16())


def test_bytes_are_those_of_all_buffers():
    store = new_store()
    assert store.allocated_bytes == SHAPE.bytes_per_token * CAPACITY
    fill(store, 0, 3)
    assert store.resident_bytes == SHAPE.bytes_per_token * 3
    assert KVStore(SHAPE, STREAMS, 0, torch.float32, "cpu").resident_bytes == 0


@pytest.mark.parametrize(("misuse", "value"), [
    (lambda store: store.reserve(9, CAPACITY, 0), f"{CAPACITY} tokens"),
    (lambda store: store.reserve(0, 2, 0), "chunk 0"),
    (lambda store: store.write(0, STREAMS[0], 0, normal(2, 2, 5, 3), normal(2, 2, 5, 3)), "5 keys"),
    (lambda store: store.write(0, STREAMS[0], 7, normal(2, 2, 2, 3), normal(2, 2, 2, 3)), "chunk 7"),
    (lambda store: store.release(7), "chunk 7")])
def test_misuse_says_what_is_wrong(misuse, value):
    store = new_store()
    fill(store, 0, 2)
    with pytest.raises(ValueError, match=value):
        misuse(store)
    store.check_integrity()


@pytest.mark.parametrize("damage", [{1: Slot(((1, 4),), 4)}, {1: Slot(((10, 13),), 4)},
                                    {1: Slot(((3, 6),), 0)}])
def test_damaged_bookkeeping_is_found(damage):
    store = new_store()
    fill(store, 0, 3)
    store.layout.slots.update(damage)
    with pytest.raises(RuntimeError, match="KV"):
        store.check_integrity()


def test_keys_of_an_absent_chunk_are_found():
    store = new_store()
    store._written.add((0, STREAMS[0], 4))
    with pytest.raises(RuntimeError, match="not resident"):
        store.check_integrity()


def test_close_frees_every_buffer():
    store = new_store()
    fill(store, 0, 3)
    buffers = [weakref.ref(part) for b in (*store._keys.values(), *store._values.values()) for part in b.parts]
    store.close()
    gc.collect()
    assert [buffer() for buffer in buffers] == [None] * len(buffers)
    assert (store.allocated_bytes, store.tokens, store.chunks) == (0, 0, ())
    store.close()
