"""The scorers against their definitions, written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowcache_core.kv import SCORERS, Cached, Compression, KVBudget
from flowcache_core.kv.attention_mass import mean_attention, peak_attention
from flowcache_core.kv.scorers.packcache import even_order, shares
from flowcache_core.plan import sequential
from tests.reference import PROPERTY, normal, tiny_run

PER_FRAME = 4


def cached(frames=5, **changes):
    n = frames * PER_FRAME
    return Cached(normal(2, 2, n, 8), normal(2, 2, n, 8, seed=1), torch.arange(n).expand(2, 2, n), PER_FRAME,
                  PER_FRAME, **changes)


def naive_peak(q, k, log_m):
    b, heads, n, d = k.shape
    group, out = q.shape[1] // heads, torch.zeros(b, heads, n)
    for item in range(b):
        for head in range(q.shape[1]):
            logits = q[item, head] @ k[item, head // group].T / d**0.5 + log_m[item, head // group]
            out[item, head // group] += logits.softmax(-1).max(0).values / group
    return out


@pytest.mark.parametrize("group", [1, 3])
def test_peak_attention(group):
    q, k, log_m = normal(2, 2 * group, 9, 8, seed=2), normal(2, 2, 13, 8), torch.rand(2, 2, 13)
    torch.testing.assert_close(peak_attention(q, k, log_m), naive_peak(q, k, log_m))
    torch.testing.assert_close(peak_attention(q, k), naive_peak(q, k, torch.zeros(2, 2, 13)))


def test_a_key_that_stands_for_three_is_attended_as_three():
    q, k = normal(1, 2, 7, 8), normal(1, 2, 5, 8, seed=1)
    repeated = torch.cat([k, k[:, :, :1], k[:, :, :1]], dim=2)
    mass = mean_attention(q, repeated)
    expected = torch.cat([mass[..., :1] + mass[..., 5:].sum(-1, keepdim=True), mass[..., 1:5]], dim=-1)
    log_m = torch.tensor([3.0, 1, 1, 1, 1]).log().expand(1, 2, -1)
    torch.testing.assert_close(mean_attention(q, k, log_m), expected)


def test_attention_alone_is_the_importance():
    q, x = normal(2, 4, 6, 8, seed=3), cached()
    mass = mean_attention(q, x.keys)
    assert torch.equal(SCORERS.make("attention").score(q, x), mass)
    weighed = SCORERS.make("attention", {"weigh_values": 1}).score(q, x)
    torch.testing.assert_close(weighed, mass * x.values.norm(dim=-1))


sizes = st.lists(st.integers(1, 12), min_size=1, max_size=12)


@PROPERTY
@given(sizes, st.integers(0, 150), st.sampled_from([0.01, 0.3, 0.8, 1.0]), st.integers(0, 5))
def test_shares_sum_to_the_budget(sizes, total, decay, least):
    kept = shares(sizes, total, decay, least)
    assert sum(kept) == min(total, sum(sizes))
    assert all(0 <= k <= size for k, size in zip(kept, sizes, strict=True))
    if sum(min(least, size) for size in sizes) <= total:
        assert all(k >= min(least, size) for k, size in zip(kept, sizes, strict=True))


@PROPERTY
@given(st.integers(1, 12), st.integers(1, 100), st.sampled_from([0.3, 0.8, 1.0]), st.integers(0, 3))
def test_of_equal_frames_the_newer_keeps_at_least_as_much(frames, total, decay, least):
    kept = shares([8] * frames, total, decay, least)
    assert kept == sorted(kept)


def test_shares_by_hand():
    """10 tokens at 1/2 a frame: 4/7, 2/7, 1/7 of 10 rounded down, the rest to the newest; and one that is full."""
    assert shares([8, 8, 8], 10, 0.5, 0) == [1, 2, 7]
    assert shares([8, 8, 4], 10, 0.5, 0) == [1, 5, 4]
    assert shares([8, 8, 8], 10, 0.5, 3) == [3, 3, 4]
    assert shares([8, 8, 8], 2, 0.5, 1) == [0, 1, 1]


@pytest.mark.parametrize("cells", [1, 2, 7, 36, 60])
def test_even_order_is_a_permutation_whose_first_ranks_are_apart(cells):
    rank = even_order(cells)
    assert sorted(rank.tolist()) == list(range(cells))
    for count in (2, 4, 8):
        if count <= cells:
            gaps = torch.tensor(sorted(p for p in range(cells) if rank[p] < count)).diff()
            assert gaps.min() >= cells // (2 * count)


@PROPERTY
@given(st.integers(1, 6), st.integers(1, 24), st.sampled_from(["even", "key_norm"]))
def test_packcache_keeps_the_shares_and_the_best_of_each_frame(frames, keep, inside):
    x = cached(frames, keep=min(keep, frames * PER_FRAME))
    scorer = SCORERS.make("packcache", {"inside": inside, "decay": 0.6})
    index = Compression(scorer).choose(None, x, x.keep)
    expected = shares([PER_FRAME] * frames, x.keep, 0.6, 1)
    rank = even_order(PER_FRAME).tolist()
    for b in range(2):
        for h in range(2):
            kept = index[b, h].tolist()
            assert [sum(i // PER_FRAME == f for i in kept) for f in range(frames)] == expected
            worth = [-rank[i % PER_FRAME] if inside == "even" else -x.keys[b, h, i].norm().item()
                     for i in range(frames * PER_FRAME)]
            for i in kept:
                rivals = [j for j in range(frames * PER_FRAME) if j // PER_FRAME == i // PER_FRAME and j not in kept]
                assert all(worth[i] >= worth[j] for j in rivals)


def test_past_use_remembers_and_forgets_slowly():
    q, x = normal(2, 2, 3, 8, seed=4), cached()
    peak = peak_attention(q, x.keys).mean(1, keepdim=True).expand(2, 2, -1)
    scorer = SCORERS.make("past_use", {"decay": 0.5})
    assert torch.equal(scorer.score(q, x), peak)
    earlier = torch.rand(2, 2, x.keys.shape[2])
    found = scorer.score(q, cached(earlier=earlier))
    assert torch.equal(found, peak.maximum(0.5 * earlier))
    apart = SCORERS.make("past_use", {"shared": 0}).score(q, x)
    assert torch.equal(apart, peak_attention(q, x.keys))


def test_a_run_hands_back_the_scores_of_the_last_compression():
    """Every token that was scored comes back with its score, and new ones with 0."""
    seen, scorer = [], SCORERS.make("past_use")
    run = tiny_run(sequential(12, 2, 2), budget=KVBudget(3), compression=Compression(scorer))
    keep = run.cache.store.marks

    def look(progress):
        store = run.cache.store
        if store.layout.folded and not store._pending:
            seen.append(keep.read((0, "cond#0"), "score", store.layout.folded.spans).clone())

    run.run(look)
    assert seen and all((scores > 0).all() for scores in seen)


@pytest.mark.parametrize(("name", "settings", "value"), [
    ("packcache", {"inside": "middle"}, "'middle'"), ("packcache", {"decay": 0.0}, "0.0"),
    ("attention", {"kernel": 4}, "4"), ("past_use", {"decay": 1.5}, "1.5")])
def test_bad_settings_name_the_value(name, settings, value):
    with pytest.raises(ValueError, match=value):
        SCORERS.make(name, settings)


def test_frames_have_no_meaning_in_the_released_order():
    x = Cached(normal(1, 1, 8, 4), normal(1, 1, 8, 4), None, 4, 4, keep=4)
    with pytest.raises(ValueError, match="released order"):
        SCORERS.make("packcache").score(None, x)
