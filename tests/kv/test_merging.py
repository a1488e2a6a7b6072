"""Merging against explicit loops, and what must hold of merged keys in attention."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowcache_core.attention import attend_masked
from flowcache_core.backbones.hooks import attend, rotate
from flowcache_core.backbones.wan import ROPE_THETA, rope_table
from flowcache_core.kv import MERGERS, SCORERS, Cached, Compression, KVBudget, links
from flowcache_core.kv.rotation import turned_back
from flowcache_core.plan import sequential
from tests.reference import PROPERTY, TOKENS, normal, tiny_run, tiny_wan

PER_FRAME = 4


def cached(frames, width=12, seed=0, noise=0.3, scenes=2, drop=0, **changes):
    """Tokens of `frames` frames that repeat `scenes` pictures with noise; each head lost `drop` tokens of its own."""
    pictures = normal(2, 2, scenes, PER_FRAME, width, seed=seed)
    keys = torch.cat([pictures[:, :, f * scenes // frames] for f in range(frames)], dim=2)
    keys = keys + noise * normal(*keys.shape, seed=seed + 1)
    n = frames * PER_FRAME
    generator = torch.Generator().manual_seed(seed + 2)
    index = torch.rand(2, 2, n, generator=generator).argsort(-1)[..., :n - drop].sort(-1).values
    rows = index.unsqueeze(-1).expand(-1, -1, -1, width)
    values = normal(2, 2, n, width, seed=seed + 3).gather(2, rows)
    log_m = torch.randint(1, 4, index.shape, generator=generator).float().log()
    settings = {"keep": n - drop, "log_m": log_m, "time_theta": ROPE_THETA, **changes}
    return Cached(keys.gather(2, rows), values, index, PER_FRAME, 2 * PER_FRAME, **settings)


def naive_links(keys, frames):
    """(newer, older, cosine) of one head: the best one of the frame before, each older token given to its best."""
    unit, claims = torch.nn.functional.normalize(keys.double(), dim=-1), {}
    for new in range(len(keys)):
        before = [(float(unit[new] @ unit[old]), -old) for old in range(len(keys)) if frames[old] == frames[new] - 1]
        if before:
            cosine, old = max(before)
            claims.setdefault(-old, []).append((cosine, -new))
    return [(-max(c)[1], old, max(c)[0]) for old, c in claims.items()]


def naive_merge(x, b, h, merger, surplus):
    """{newest index: (member indices, mean value, m)} of one head."""
    keys = turned_back(x.keys, x.frames, ROPE_THETA)[b, h] if merger.align == "time" else x.keys[b, h]
    found = [link for link in naive_links(keys, x.frames[b, h].tolist()) if link[2] >= merger.similarity]
    found = sorted(found, key=(lambda link: link[1]) if merger.first == "oldest" else (lambda link: -link[2]))[:surplus]
    groups = {n: [n] for n in range(x.keys.shape[2])}
    for new, old, _ in sorted(found):   # by the newer token: chains grow from their old end
        groups[new] = groups.pop(old) + groups[new]
    m = x.log_m[b, h].exp()
    return {new: (members, sum(m[i] * x.values[b, h, i] for i in members) / sum(m[i] for i in members),
                  sum(float(m[i]) for i in members)) for new, members in groups.items()}


@PROPERTY
@given(st.integers(2, 6), st.integers(0, 12), st.integers(0, 3), st.sampled_from(MERGERS.names()),
       st.sampled_from(["time", "none"]), st.integers(0, 50))
def test_equals_loops(frames, surplus, drop, name, align, seed):
    x = cached(frames, drop=drop, seed=10 * seed)
    merger = MERGERS.make(name, {"align": align})
    found = merger.merge(x, surplus)
    for b, h in ((0, 0), (0, 1), (1, 0), (1, 1)):
        expected = naive_merge(x, b, h, merger, surplus)
        assert (~found.absorbed[b, h]).nonzero().flatten().tolist() == sorted(expected)
        assert found.absorbed[b, h].sum() <= surplus
        for new, (members, mean, m) in expected.items():
            torch.testing.assert_close(found.values[b, h, new], mean, atol=1e-5, rtol=1e-5)
            assert found.log_m[b, h, new].exp().item() == pytest.approx(m, rel=1e-5)
            assert len(members) > 1 or torch.equal(found.values[b, h, new], x.values[b, h, new])


@pytest.mark.parametrize("tile_bytes", [1, 2000, 2**25])
def test_tiles_of_any_size_find_the_same_links(tile_bytes, monkeypatch):
    x = cached(6, drop=3)
    whole = links.best_links(x.keys, x.frames, PER_FRAME)
    monkeypatch.setattr(links, "TILE_BYTES", tile_bytes)
    older, product = links.best_links(x.keys, x.frames, PER_FRAME)
    assert torch.equal(older, whole[0])
    torch.testing.assert_close(product, whole[1])


def test_turning_back_undoes_the_rotation_in_time():
    """Against the network's own table: keys at frames 3 and 7 become those at frame 0, places in the frame stay."""
    keys, width = normal(1, 2, 12, 24), 24
    here, there = rope_table((3, 7), 2, 3, width, torch.device("cpu")), rope_table((0, 0), 2, 3, width,
                                                                                   torch.device("cpu"))
    frames = torch.tensor([3] * 6 + [7] * 6).expand(1, 2, -1)
    found = turned_back(rotate(keys, here), frames, ROPE_THETA)
    torch.testing.assert_close(found, rotate(keys, there), atol=1e-5, rtol=1e-5)


def test_a_still_video_becomes_one_frame():
    """The same keys in every frame, rotated as the network does: all frames go into the last."""
    keys = normal(1, 2, PER_FRAME, 24).repeat(1, 1, 5, 1)
    rotated = rotate(keys, rope_table(range(5), 2, 2, 24, torch.device("cpu")))
    n = 5 * PER_FRAME
    x = Cached(rotated, normal(1, 2, n, 24, seed=1), torch.arange(n).expand(1, 2, -1), PER_FRAME, PER_FRAME,
               time_theta=ROPE_THETA)
    found = MERGERS.make("tempcache").merge(x, n)
    assert (~found.absorbed).nonzero()[:, -1].view(2, -1).tolist() == [list(range(n - PER_FRAME, n))] * 2
    torch.testing.assert_close(found.log_m[:, :, -PER_FRAME:], torch.full((1, 2, PER_FRAME), 5.0).log())
    same, turned = (MERGERS.make("tempcache", {"align": a}).links(x)[1][..., PER_FRAME:] for a in ("time", "none"))
    torch.testing.assert_close(same, torch.ones_like(same))
    assert turned.max() < 0.999


def test_equal_keys_attend_as_before_and_the_error_falls_with_their_spread():
    errors = []
    for noise in (0.0, 0.01, 0.1):
        x = cached(4, noise=noise, log_m=None, keep=2 * PER_FRAME)
        kept = Compression(SCORERS.make("recency"), merger=MERGERS.make("tempcache", {"align": "none"})).fold(
            normal(2, 2, 3, 12), x)
        keys = x.keys.gather(2, kept.index.unsqueeze(-1).expand(-1, -1, -1, 12))
        q = normal(2, 2, 7, 12, seed=5)
        found = attend_masked(attend, q, keys, kept.values, kept.marks["log_m"])
        errors.append((found - attend(q, x.keys, x.values)).abs().max().item())
    assert errors[0] < 1e-6 and 3 * errors[0] < 3 * errors[1] < errors[2]


@PROPERTY
@given(st.integers(2, 6), st.integers(1, 20), st.sampled_from(MERGERS.names()),
       st.sampled_from(["recency", "key_norm", "attention", "packcache", "past_use"]))
def test_every_head_keeps_its_budget_in_order_and_no_token_is_counted_twice(frames, keep, name, scorer):
    x = cached(frames, keep=min(keep, frames * PER_FRAME), seed=keep)
    kept = Compression(SCORERS.make(scorer), merger=MERGERS.make(name)).fold(normal(2, 4, 3, 12), x)
    assert kept.index.shape == (2, 2, x.keep) and kept.values.shape[2] == x.keep
    assert (kept.index.diff(dim=-1) > 0).all()
    assert ((kept.marks["log_m"].exp().sum(-1)) <= x.log_m.exp().sum(-1) + 1e-3).all()
    if x.keep == x.keys.shape[2]:
        assert torch.equal(kept.values, x.values) and torch.equal(kept.marks["log_m"], x.log_m)


def test_merging_alone_loses_no_weight():
    x = cached(5, keep=2 * PER_FRAME, noise=0.01)
    kept = Compression(merger=MERGERS.make("close_links")).fold(normal(2, 2, 3, 12), x)
    torch.testing.assert_close(kept.marks["log_m"].exp().sum(-1), x.log_m.exp().sum(-1), rtol=1e-5, atol=0)


def test_a_weight_is_capped_where_wanted():
    merged = MERGERS.make("tempcache", {"most": 2, "align": "none"}).merge(cached(5, noise=0, log_m=None), 99)
    assert merged.log_m.max().exp().item() == pytest.approx(2)


# Whole runs

PLAN = sequential(16, 2, 3)
MODEL = tiny_wan()


@pytest.mark.parametrize("name", MERGERS.names())
@pytest.mark.parametrize("batch_streams", [True, False])
def test_a_run_keeps_its_budget_and_its_weights(name, batch_streams):
    run, seen = tiny_run(PLAN, MODEL, guidance=2.0, budget=KVBudget(3), batch_streams=batch_streams,
                         compression=Compression(SCORERS.make("recency"), merger=MERGERS.make(name))), []

    def look(progress):
        store = run.cache.store
        store.check_integrity()
        seen.append(store.tokens)
        log_m = store.log_m(1, "cond#0", store.layout.folded_chunks)
        if log_m is not None:
            seen_chunks = 1 + max(store.layout.folded_chunks)
            assert (log_m.exp().sum(-1) <= seen_chunks * 2 * TOKENS + 1e-3).all()

    assert run.run(look).isfinite().all() and max(seen) == 3 * 2 * TOKENS
    assert run.trace.settings["merger"] == name


def test_nothing_merged_is_what_the_scorer_alone_does():
    apart = MERGERS.make("tempcache", {"similarity": 1.5})
    found, alone = (tiny_run(PLAN, MODEL, budget=KVBudget(3), compression=Compression(SCORERS.make("recency"), merger=m)
                             ).run() for m in (apart, None))
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [{"granularity": "frame"}, {"released_order": True}])
def test_a_merger_wants_single_tokens_in_order(settings):
    with pytest.raises(ValueError, match="'tempcache'.*granularity token"):
        Compression(merger=MERGERS.make("tempcache"), **settings)


def test_keys_of_unknown_rotation_are_refused_before_sampling():
    from dataclasses import replace

    class Unknown:
        def __getattr__(self, name):
            return getattr(MODEL, name)

        @property
        def sizes(self):
            return replace(MODEL.sizes, time_theta=None)

    with pytest.raises(ValueError, match="align=none"):
        tiny_run(PLAN, Unknown(), budget=KVBudget(3), compression=Compression(merger=MERGERS.make("tempcache")))


@pytest.mark.parametrize(("settings", "value"), [({"align": "space"}, "'space'"), ({"first": "last"}, "'last'"),
                                                 ({"similarity": 3.0}, "3.0"), ({"most": -1}, "-1")])
def test_bad_settings_name_the_value(settings, value):
    with pytest.raises(ValueError, match=value):
        MERGERS.make("tempcache", settings)
