"""AnnSA, AnnCA, where they are on, and whole runs with them."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowcache_core.attention import SPARSE, AttentionRun, KeySet, Place, SparseAttention, WeightedAttention
from flowcache_core.attention.methods.annca import padding
from flowcache_core.backbones.hooks import attend
from flowcache_core.kv import MERGERS, SCORERS, Compression, KVBudget
from flowcache_core.plan import diffusion_forcing, sequential
from flowcache_core.reuse.policies.every_nth import EveryNth
from tests.reference import PROPERTY, naive_attention, normal, tiny_run, tiny_wan

SMALL = {"block": 4, "query_block": 4, "sub": 2, "dense_below": 0, "least_blocks": 1, "least_share": 0.2, "keep": 0.5}
PLACE = Place(2, 6, "cond#0", (3,), 5, 10, tokens_per_frame=3, own=6)
MODEL = tiny_wan()
PLAN = sequential(16, 2, 8)


def annsa(**settings):
    return SPARSE.make("annsa", {**SMALL, **settings})


def run_method(method, q, past, place=PLACE, memory=None):
    return method.attend(place, q, past, attend, WeightedAttention(), {} if memory is None else memory)


# Where it is on

@PROPERTY
@given(st.integers(1, 40), st.integers(1, 60), st.floats(0, 1), st.floats(0, 1))
def test_first_steps_the_last_step_and_the_outer_blocks_are_dense(layers, steps, dense_steps, dense_blocks):
    sparse = SparseAttention((annsa(),), dense_steps, dense_blocks)
    for layer in range(layers):
        for step in range(steps):
            on = sparse.method("self", replace(PLACE, layer=layer, layers=layers, step=step, steps=steps)) is not None
            outer = layer < dense_blocks * layers / 2 or layers - layer <= math.floor(dense_blocks * layers / 2)
            assert on == (step >= dense_steps * steps and step < steps - 1 and not outer)
            assert sparse.method("cross", PLACE) is None


def test_one_method_a_kind():
    with pytest.raises(ValueError, match="'annsa' and 'annsa'.*self-attention"):
        SparseAttention((annsa(), annsa(bits=4)))


@pytest.mark.parametrize(("name", "settings", "value"), [
    ("annsa", {"codes": "morse"}, "'morse'"), ("annsa", {"sub": 3}, "sub 3"), ("annca", {"share": 2.0}, "2.0"),
    ("annca", {"codes": ""}, "''"), ("annsa", {"bits": 1}, "1")])
def test_bad_settings_name_the_value(name, settings, value):
    with pytest.raises(ValueError, match=value):
        SPARSE.make(name, settings)


# AnnSA

@pytest.mark.parametrize("codes", ["lsh", "quant"])
@pytest.mark.parametrize(("group", "weights"), [(1, False), (3, True)])
def test_all_blocks_give_dense_attention(codes, group, weights):
    """At a share that takes everything by the long way, and bit for bit where keep says all."""
    q, k, v = normal(2, 2 * group, 7, 8), normal(2, 2, 40, 8, seed=1), normal(2, 2, 40, 8, seed=2)
    past = KeySet(k, v, torch.rand(2, 2, 40) if weights else None)
    dense = WeightedAttention()(attend, q, k, v, past.log_m)
    exact = run_method(annsa(codes=codes, keep=1.0), q, past)
    assert exact.density == 1 and torch.equal(exact.out, dense)
    nearly = run_method(annsa(codes=codes, keep=0.99999999, least_share=1.0), q, past)
    torch.testing.assert_close(nearly.out, dense, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("codes", ["lsh", "quant"])
def test_sorted_and_gathered_equals_the_mask_that_was_chosen(codes):
    """The choice itself is read back as a mask over the keys in their own order."""
    q, k, v = normal(1, 2, 9, 8), 3 * normal(1, 2, 50, 8, seed=1), normal(1, 2, 50, 8, seed=2)
    memory, method = {}, annsa(codes=codes)
    found = run_method(method, q, KeySet(k, v), memory=memory)
    (choice,), start = memory.values(), 3
    visible = torch.ones(2, 9, 50, dtype=torch.bool)
    inside = choice.order.shape[-1]
    for h in range(2):
        visible[h, :, start:start + inside] = False
        for place, query in enumerate(choice.queries[0, h].tolist()):
            for block in choice.table[0, h, place // 4].nonzero().flatten().tolist():
                keys = choice.order[0, h, 4 * block:4 * block + 4] + start
                visible[h, query, keys] = True
    expected = torch.stack([naive_attention(q[0, h], k[0, h], v[0, h], visible[h]) for h in range(2)])
    torch.testing.assert_close(found.out[0], expected, atol=1e-5, rtol=1e-5)
    assert found.density == pytest.approx(visible.float().mean().item(), rel=0.1) and found.density < 0.9
    assert visible[:, :, :3].all() and visible[:, :, -9:].all()   # sink frame; recent frame and own tokens


def test_few_blocks_are_dense():
    q, k, v = normal(1, 2, 5, 8), normal(1, 2, 30, 8, seed=1), normal(1, 2, 30, 8, seed=2)
    assert run_method(annsa(dense_below=16), q, KeySet(k, v)).density == 1
    assert run_method(annsa(sink_frames=99), q, KeySet(k, v)).density == 1


def test_items_are_independent():
    q, k, v = normal(2, 2, 9, 8), 3 * normal(2, 2, 50, 8, seed=1), normal(2, 2, 50, 8, seed=2)
    both = run_method(annsa(), q, KeySet(k, v)).out
    alone = torch.cat([run_method(annsa(), q[n:n + 1], KeySet(k[n:n + 1], v[n:n + 1])).out for n in (0, 1)])
    torch.testing.assert_close(both, alone, atol=1e-5, rtol=1e-5)


# AnnCA

def test_kept_words_attend_alone_and_special_ones_are_always_kept():
    """Words opposite to every query are dropped."""
    q = 5 + normal(1, 2, 6, 8)
    k = torch.where(torch.arange(20)[:, None] % 2 == 0, q.mean((0, 1, 2)), -q.mean((0, 1, 2))).expand(1, 2, -1, -1)
    k, v = k + 0.01 * normal(1, 2, 20, 8), normal(1, 2, 20, 8, seed=2)
    found = run_method(SPARSE.make("annca", {"share": 0.55, "least": 1, "codes": "quant"}), q, KeySet(k, v))
    kept = [*range(0, 20, 2), 19]
    torch.testing.assert_close(found.out, naive_attention(q, k[:, :, kept], v[:, :, kept]), atol=1e-5, rtol=1e-5)
    assert found.density == 0.55


def test_padding_becomes_one_word_and_changes_nothing():
    q, k, v = normal(2, 2, 6, 8), normal(2, 2, 12, 8, seed=1), normal(2, 2, 12, 8, seed=2)
    k[:, :, 7:], v[:, :, 7:] = k[:, :, 7:8].clone(), v[:, :, 7:8].clone()
    assert padding(KeySet(k, v)) == 5
    found = run_method(SPARSE.make("annca", {"share": 0.9, "least": 1}), q, KeySet(k, v))
    assert found.density == 8 / 12
    torch.testing.assert_close(found.out, naive_attention(q, k, v), atol=1e-5, rtol=1e-5)


def test_all_words_or_few_are_plain_attention_bit_for_bit():
    q, k, v = normal(1, 2, 6, 8), normal(1, 2, 12, 8, seed=1), normal(1, 2, 12, 8, seed=2)
    for settings in ({"share": 1.0, "least": 1}, {}):
        found = run_method(SPARSE.make("annca", settings), q, KeySet(k, v))
        assert found.density == 1 and torch.equal(found.out, attend(q, k, v))


# What a run remembers

def test_a_choice_is_kept_until_it_ages_or_other_keys_are_cached():
    run, made = AttentionRun(SparseAttention((annsa(),), 0, 0, refresh=0.3)), []
    method = run.sparse.methods[0]
    object.__setattr__(method, "choose", lambda *given: made.append(1) or type(method).choose(method, *given))
    q, k, v = normal(1, 2, 9, 8), normal(1, 2, 50, 8, seed=1), normal(1, 2, 50, 8, seed=2)
    for step, version, count in ((3, 0, 1), (4, 0, 1), (5, 0, 1), (6, 0, 2), (7, 0, 2), (7, 1, 3), (8, 1, 3)):
        run.attend("self", replace(PLACE, step=step, version=version), q, k, v, None, attend)
        assert len(made) == count
    run.forget(3)
    run.attend("self", replace(PLACE, step=8, version=1), q, k, v, None, attend)
    assert len(made) == 4 and run.sparse_calls == {"self": 8}
    for count in (5, 6):   # of other tokens each time
        run.attend("self", replace(PLACE, step=8, version=1, fresh=True), q, k, v, None, attend)
        assert len(made) == count


# Whole runs

def sparse_run(methods=None, **settings):
    chosen = methods or (annsa(least_share=0.0), SPARSE.make("annca", {"least": 2, "share": 0.5}))
    return tiny_run(PLAN, MODEL, guidance=2.0, sparse=SparseAttention(chosen, 0.3, 0), **settings)


def test_a_run_looks_at_less_and_says_how_much():
    run = sparse_run()
    found = run.run()
    dense = tiny_run(PLAN, MODEL, guidance=2.0).run()
    assert found.isfinite().all() and not torch.equal(found, dense)
    assert [note.split(" looked")[0] for note in run.trace.notes] == ["sparse self-attention", "sparse cross-attention"]
    assert run.trace.settings["sparse"]["methods"]["annca"]["share"] == 0.5
    assert torch.equal(sparse_run().run(), found)


def test_methods_that_take_everything_change_nothing_bit_for_bit():
    everything = (annsa(keep=1.0), SPARSE.make("annca", {"share": 1.0}))
    assert torch.equal(sparse_run(everything).run(), tiny_run(PLAN, MODEL, guidance=2.0).run())


def test_a_run_in_which_it_is_never_on_says_so():
    run = tiny_run(sequential(4, 2, 2), MODEL, sparse=SparseAttention((annsa(),)))
    run.run()
    assert run.trace.notes == ["sparse self-attention was never on: too few steps or layers, or no past"]


@pytest.mark.parametrize("merger", [None, "close_links"])
def test_with_reuse_compression_and_streams_apart(merger):
    """An item of a batch and a stream in a call of its own see what they see together."""
    def run(**settings):
        compression = Compression(SCORERS.make("recency"), merger=merger and MERGERS.make(merger))
        return sparse_run(policy=EveryNth(), budget=KVBudget(4), compression=compression, **settings).run()

    torch.testing.assert_close(run(), run(batch_streams=False), atol=1e-4, rtol=0)


def test_in_flight_neighbours_are_seen():
    plan = diffusion_forcing(12, 2, 8, 3, commit=True)
    run = tiny_run(plan, MODEL, sparse=SparseAttention((annsa(),), 0, 0))
    assert run.run().isfinite().all() and "sparse self-attention looked at" in run.trace.notes[0]


def test_a_network_that_never_asks_for_attention_is_refused():
    class Deaf:
        def __getattr__(self, name):
            return getattr(MODEL, name)

        def __call__(self, latent, timestep, text, places=None, hooks=None):
            return MODEL(latent, timestep, text, places)

    with pytest.raises(ValueError, match="annsa on a network that does not call the attention hook"):
        tiny_run(PLAN, Deaf(), sparse=SparseAttention((annsa(),))).run()
