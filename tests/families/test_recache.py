"""A new prompt in mid-video: the keys of the window computed anew (LongLive)."""

import pytest
import torch

from flowcache_core.kv import KVBudget
from flowcache_core.plan import History, sequential
from flowcache_core.solvers import Renoise
from tests.families.keys import FEW, Keys, chunk_of, few_steps
from tests.reference import TINY, TOKENS, normal, tiny_run, tiny_wan

LONGLIVE = History(recent=2, sink=1)
OLD, NEW = normal(1, 5, TINY.dim, seed=31), normal(1, 5, TINY.dim, seed=32)


def recache_run(switch=4, recache="joint", **settings):
    plan = sequential(12, 2, 2, history=LONGLIVE, switches=[switch], recache=recache)
    given = {"cond#0": [OLD if c < switch else NEW for c in range(6)]}
    return tiny_run(plan, tiny_wan(), given, table=FEW, solver=Renoise(), **settings)


def store_keys(run, chunks):
    return {layer: run.cache.store.read(layer, "cond#0", chunks) for layer in range(2)}


def test_recached_keys_equal_those_computed_from_scratch():
    """All of the window at time 0 with the new prompt, seeing one another and the sink's old keys."""
    run, model, kept = recache_run(), tiny_wan(), {}

    def look(progress):
        if progress.last.kind in ("recache", "commit"):
            chunks = [c for c in run.cache.store.chunks if c < 4]
            kept[progress.last.kind, progress.last.chunks[0]] = {
                layer: tuple(x.clone() for x in pair) for layer, pair in store_keys(run, chunks).items()}

    latents = run.run(look)
    sink = chunk_of(kept["commit", 0], 0, 2)
    hooks = Keys(sink)
    model(latents[:, :, 2:8], torch.zeros(1, 6), NEW, range(2, 8), hooks)
    for layer, pair in kept["recache", 1].items():
        for n, found in enumerate(pair):
            torch.testing.assert_close(found[:, :, :2 * TOKENS], sink[layer][n], atol=0, rtol=0)
            torch.testing.assert_close(found[:, :, 2 * TOKENS:], hooks.own[layer][n], atol=1e-5, rtol=1e-5)


def test_the_chunk_after_a_switch_sees_the_recached_keys():
    run, model, kept = recache_run(), tiny_wan(), {}

    def look(progress):
        if progress.last.kind == "recache":
            kept.update({layer: tuple(x.clone() for x in pair) for layer, pair in store_keys(run, [0, 2, 3]).items()})

    start = run.video.chunk(4).clone()
    latents = run.run(look)
    again = recache_run()
    assert torch.equal(again.video.chunk(4), start)
    torch.testing.assert_close(latents[:, :, 8:10], few_steps(model, again, NEW, 4, kept), atol=1e-5, rtol=1e-5)


def test_a_causal_recache_is_another_choice():
    joint, causal = (recache_run(recache=how).run() for how in ("joint", "causal"))
    plan = sequential(12, 2, 2, history=LONGLIVE)
    none = tiny_run(plan, tiny_wan(), {"cond#0": [OLD] * 4 + [NEW] * 2}, table=FEW, solver=Renoise()).run()
    for found in (joint, causal):
        assert torch.equal(found[:, :, :8], none[:, :, :8])
        assert not torch.allclose(found[:, :, 8:], none[:, :, 8:], atol=1e-4)
    assert not torch.allclose(joint[:, :, 8:], causal[:, :, 8:], atol=1e-5)


def test_a_recache_with_the_old_prompt_and_a_causal_order_gives_the_same_keys_back():
    """Chunks 1 to 3 were committed seeing what they see when they are recached one by one."""
    plan = sequential(10, 2, 2, history=History(recent=3, sink=1), switches=[4], recache="causal")
    given = {"cond#0": [OLD] * 5}
    plain = tiny_run(sequential(10, 2, 2, history=History(3, 1)), tiny_wan(), given, table=FEW, solver=Renoise())
    torch.testing.assert_close(tiny_run(plan, tiny_wan(), given, table=FEW, solver=Renoise()).run(), plain.run(),
                               atol=1e-5, rtol=1e-5)


def test_recaching_works_with_guidance_items_and_a_budget():
    plan = sequential(12, 2, 2, history=LONGLIVE, switches=[4])
    texts = {s: [normal(2, 5, TINY.dim, seed=40 + c // 4 + n) for c in range(6)]
             for n, s in enumerate(("cond#0", "uncond#0"))}
    settings = {"table": FEW, "solver": Renoise(), "guidance": 2.0, "items": 2}
    run = tiny_run(plan, given=texts, budget=KVBudget(4, "chunks", sink_chunks=1), **settings)
    assert torch.equal(run.run(), tiny_run(plan, given=texts, **settings).run())
    assert [p.calls for p in run.trace.passes if p.kind == "recache"] == [4]
    with pytest.raises(ValueError, match="at least"):
        tiny_run(plan, given=texts, budget=KVBudget(3, "chunks", sink_chunks=1), **settings)
