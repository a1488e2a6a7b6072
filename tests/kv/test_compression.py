"""Folding in the store, and whole runs under a budget that compresses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowcache_core.kv import SCORERS, Cached, Compression, KVBudget, KVShape, KVStore
from flowcache_core.plan import History, diffusion_forcing, sequential
from tests.reference import PROPERTY, TOKENS, make_scorer, normal, texts, tiny_run, tiny_wan

SHAPE = KVShape(layers=2, streams=1, items=2, heads=2, head_dim=4, bytes_per_number=4)
PLACES = [(0, "cond#0"), (1, "cond#0")]


def filled(chunks, tokens=3, capacity=12):
    store = KVStore(SHAPE, ("cond#0",), capacity, torch.float32, "cpu")
    for chunk in chunks:
        store.reserve(chunk, tokens, chunk * tokens)
        for layer, stream in PLACES:
            store.write(layer, stream, chunk, normal(2, 2, tokens, 4, seed=10 * chunk + layer),
                        normal(2, 2, tokens, 4, seed=10 * chunk + layer + 5))
    return store


def settle(store, index):
    for layer, stream in PLACES:
        store.settle(layer, stream, lambda k, v, p: index)


@PROPERTY
@given(st.lists(st.tuples(st.integers(1, 3), st.randoms(use_true_random=False)), min_size=1, max_size=5))
def test_folds_keep_what_was_chosen(events):
    """Against lists of (key, position) per head: after any number of events, and with new chunks in the freed room."""
    store, landed = filled(range(4)), 4
    held = {(place, b, h): [(store.read(*place, [c])[0][b, h, t].tolist(), 3 * c + t)
                            for c in range(4) for t in range(3)]
            for place in PLACES for b in range(2) for h in range(2)}
    for count, random in events:
        folding = list(store.chunks)[:2]
        total = (store.layout.folded.tokens if store.layout.folded else 0) + 3 * len(folding)
        keep = max(1, total - 3 * count)
        kept = sorted(random.sample(range(total), keep))
        store.fold(folding, keep)
        settle(store, torch.tensor(kept).expand(2, 2, -1))
        for place, b, h in held:
            old = held[place, b, h]
            held[place, b, h] = [old[i] for i in kept] + old[total:]
        store.check_integrity()
        for place in PLACES:
            keys, _ = store.read(*place, range(landed))
            for b in range(2):
                for h in range(2):
                    assert keys[b, h].tolist() == [key for key, _ in held[place, b, h]]
                    positions = store.folded_positions(*place)[b, h]
                    assert positions.tolist() == [p for _, p in held[place, b, h]][:keep]
        while store.tokens + 3 <= store.capacity:
            store.reserve(landed, 3, 3 * landed)
            for place in PLACES:
                new = normal(2, 2, 3, 4, seed=landed)
                store.write(*place, landed, new, new)
                for b in range(2):
                    for h in range(2):
                        held[place, b, h] += [(new[b, h, t].tolist(), 3 * landed + t) for t in range(3)]
            landed += 1


def test_heads_choose_on_their_own():
    store = filled(range(2))
    before = store.read(0, "cond#0", (0, 1))[0].clone()
    index = torch.tensor([[[0, 1], [4, 5]], [[2, 3], [1, 5]]])
    store.fold([0, 1], 2)
    settle(store, index)
    keys, _ = store.read(0, "cond#0", (0,))
    for b in range(2):
        for h in range(2):
            assert torch.equal(keys[b, h], before[b, h, index[b, h]])


def test_nothing_is_read_or_written_between_announcement_and_settlement():
    store = filled(range(3))
    store.fold([0], 1)
    with pytest.raises(RuntimeError, match="not settled"):
        store.read(0, "cond#0", (1,))
    with pytest.raises(RuntimeError, match="not settled"):
        store.write(0, "cond#0", 1, normal(2, 2, 3, 4), normal(2, 2, 3, 4))
    with pytest.raises(RuntimeError, match="not settled"):
        store.fold([1], 1)


@pytest.mark.parametrize("keep", [0, 7])
def test_a_fold_keeps_one_to_all(keep):
    with pytest.raises(ValueError, match=f"{keep} tokens to keep of 6"):
        filled(range(2)).fold([0, 1], keep)


PLAN = sequential(16, 2, 3)
CHUNK = 2 * TOKENS


@pytest.fixture(scope="module")
def model():
    return tiny_wan()


@pytest.mark.parametrize("scorer", SCORERS.names())
@pytest.mark.parametrize("granularity", ["token", "frame", "chunk"])
def test_a_budget_is_kept_and_positions_ascend(model, scorer, granularity):
    run, seen = tiny_run(PLAN, model, guidance=2.0, budget=KVBudget(3),
                         compression=Compression(make_scorer(scorer), granularity)), []

    def look(progress):
        store = run.cache.store
        store.check_integrity()
        seen.append(store.tokens)
        folded = [store.folded_positions(*place) for place in store._keys]
        assert all(positions is None or (positions.diff(dim=-1) > 0).all() for positions in folded)

    assert run.run(look).isfinite().all() and max(seen) == 3 * CHUNK
    assert run.trace.summary()["compress_seconds"] > 0


@pytest.mark.parametrize("plan", [PLAN, diffusion_forcing(12, 2, 6, 3, commit=True)])
def test_a_budget_that_is_not_reached_changes_nothing_bit_for_bit(model, plan):
    roomy = tiny_run(plan, model, guidance=2.0, budget=KVBudget(20), compression=Compression())
    assert torch.equal(tiny_run(plan, model, guidance=2.0).run(), roomy.run())


def test_whole_chunks_by_recency_equal_a_recent_window(model):
    """Compression then is eviction: same latents as the budget without it."""
    folding = Compression(SCORERS.make("recency"), "chunk")
    evicting, compressing = (tiny_run(PLAN, model, guidance=2.0, budget=KVBudget(3), compression=c).run()
                             for c in (None, folding))
    torch.testing.assert_close(compressing, evicting, atol=1e-5, rtol=0)


def compressed(model, **changes):
    return tiny_run(PLAN, model, guidance=2.0, budget=KVBudget(3), compression=Compression(), **changes)


def test_an_item_of_a_batch_is_what_it_is_alone(model):
    given = {stream: [t[:1] for t in rows] for stream, rows in texts(8, items=2).items()}
    both, alone = compressed(model, items=2, given=texts(8, items=2)).run(), compressed(model, given=given).run()
    torch.testing.assert_close(both[:1], alone, atol=1e-5, rtol=0)


def test_streams_in_one_call_or_in_one_each(model):
    torch.testing.assert_close(compressed(model).run(), compressed(model, batch_streams=False).run(), atol=1e-5, rtol=0)


def test_the_released_order_is_that_of_the_scores(model):
    run = tiny_run(PLAN, model, guidance=2.0, budget=KVBudget(3), compression=Compression(released_order=True))
    orders = []
    run.run(lambda progress: orders.extend((run.cache.store.folded_positions(0, "cond#0").diff(dim=-1) > 0).all().item()
                                           for _ in [0] if run.cache.store.folded_positions(0, "cond#0") is not None))
    assert orders and not all(orders)


def test_a_plan_with_a_short_history_is_refused(model):
    plan = sequential(16, 2, 3, history=History(recent=1))
    with pytest.raises(ValueError, match="see only a part of the past"):
        tiny_run(plan, model, budget=KVBudget(3), compression=Compression())


def test_a_budget_below_the_least_names_it(model):
    """The chunk in flight, and one token of the past."""
    with pytest.raises(ValueError, match=rf"needs at least {CHUNK + 1} tokens"):
        tiny_run(PLAN, model, budget=KVBudget(CHUNK, "tokens"), compression=Compression())


@pytest.mark.parametrize("scorer", SCORERS.names())
def test_scores_are_finite_and_shaped_by_the_keys(scorer):
    cached = Cached(normal(2, 2, 9, 4), normal(2, 2, 9, 4), torch.arange(9).expand(2, 2, 9), 3, 3,
                    salience=normal(2, 2, 9))
    chosen = make_scorer(scorer)
    score = chosen.score(normal(2, 6, 5, 4) if chosen.needs_queries else None, cached)
    assert score.shape == (2, 2, 9) and score.isfinite().all()
    again = chosen.score(normal(2, 6, 5, 4) if chosen.needs_queries else None, cached)
    assert torch.equal(score, again)
