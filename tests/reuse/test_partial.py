"""Steps that are computed in part: some tokens, some blocks, or one stream from another, on both reference networks."""

import pytest
import torch

from flowcache_core.backbones.hooks import NoHooks
from flowcache_core.backbones.wan import WanTransformer
from flowcache_core.generation import Generation, RunSettings
from flowcache_core.guidance import MagiGuidance
from flowcache_core.plan import dense, sequential
from flowcache_core.reuse import PREDICTORS, Decision, Kind
from flowcache_core.reuse.derivation import derived, low_frequencies
from flowcache_core.solvers import Euler, flow_table
from tests.backbones.test_magi import small_magi
from tests.reference import SIDE, TINY, TOKENS, decisions, normal, texts, tiny_wan
from tests.reuse.toy import Given

COND, UNCOND = "cond#0", "uncond#0"
N = 2 * TOKENS   # tokens of a chunk of two frames
SOME = (0, 2, 3, 7)
by_stage = pytest.mark.parametrize("predictor", ["velocity", "residual"])


@pytest.fixture(scope="module", params=["wan", "magi"])
def network(request):
    return tiny_wan() if request.param == "wan" else small_magi()


def words_of(network, chunks):
    if isinstance(network, WanTransformer):
        return texts(chunks)
    return {stream: [network.embed_text(normal(1, 3, 12, seed=n))] * chunks for n, stream in enumerate((COND, UNCOND))}


def run_of(network, policy, plan=None, steps=2, predictor="velocity", **settings):
    plan = plan or sequential(2, 2, steps, commit=False)
    settings = RunSettings(flow_table(steps, 3.0), SIDE, SIDE, solver=Euler(), policy=policy,
                           predictor=PREDICTORS.make(predictor), **settings)
    return Generation(network, plan, settings, words_of(network, len(plan.chunks)))


def tokens_at(step, tokens, stream=COND):
    return {(step, stream): Decision(Kind.PARTIAL, "given", tokens=tuple(tokens))}


class KeysMixed(NoHooks):
    """Full forwards in which keys and values of tokens outside of `chosen` are those of the forward before."""

    def __init__(self, chosen=None):
        self.chosen, self.kept, self.residual, self.h_in = chosen, {}, None, None

    def attention(self, index, kind, q, k, v, attend):
        if kind == "cross":
            return attend(q, k, v)
        if self.chosen is not None:
            for new, old in zip((k, v), self.kept[index], strict=True):
                rest = [n for n in range(new.shape[2]) if n not in self.chosen]
                new[:, :, rest] = old[:, :, rest]
        self.kept[index] = (k.clone(), v.clone())
        return attend(q, k, v)


class HiddenKept(KeysMixed):
    """And the hidden state of the others is what the blocks added last time to what goes in now."""

    def block(self, index, x, run):
        hidden = run(x)
        self.h_in = x.hidden if index == 0 else self.h_in
        if index == 1:
            if self.chosen is not None:
                rest = [n for n in range(N) if n not in self.chosen]
                hidden[:, rest] = (self.h_in + self.residual)[:, rest]
            self.residual = hidden - self.h_in
        return hidden


@by_stage
def test_a_sparse_forward_is_the_same_rows_of_a_full_one_with_the_kept_keys(network, predictor):
    """Three steps: whole, some tokens, other tokens. Slow and obvious: whole forwards with old keys put in."""
    sets = {1: SOME, 2: (1, 2)}
    policy = Given({**tokens_at(1, sets[1]), **tokens_at(2, sets[2])})
    run = run_of(network, policy, steps=3, predictor=predictor)
    found = run.run()

    words, table = words_of(network, 1)[COND][0], flow_table(3, 3.0)
    hooks = KeysMixed() if predictor == "velocity" else HiddenKept()
    x, kept = run_of(network, policy, steps=3).video.latents, None
    with torch.inference_mode():
        for step in range(3):
            hooks.chosen = sets.get(step)
            v = network(x, torch.full((1, 2), table.timesteps[step]), words, None, hooks)
            if step and predictor == "velocity":
                mask = torch.zeros(N)
                mask[list(sets[step])] = 1
                pixels = mask.view(1, 1, 2, 2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
                v = torch.where(pixels == 1, v, kept)
            kept, x = v, x + v * (table.sigmas[step + 1] - table.sigmas[step])
    torch.testing.assert_close(found, x, atol=1e-5, rtol=1e-5)
    assert [p.lanes[0].share for p in run.trace.passes] == [1, 4 / N, 2 / N]
    assert [p.calls for p in run.trace.passes] == [1, 1, 1] and run.trace.summary()["partial"] == 2


@by_stage
def test_all_tokens_are_a_computed_step_bit_for_bit_and_none_a_reused_one(network, predictor):
    for tokens, kind in ((range(N), Kind.COMPUTE), ((), Kind.REUSE)):
        runs = [run_of(network, policy, predictor=predictor) for policy in (
            Given(tokens_at(1, tokens)), Given({(1, COND): Decision(kind, "given")}))]
        assert torch.equal(runs[0].run(), runs[1].run())
        assert decisions(runs[0]) == decisions(runs[1])


def test_the_keys_of_other_tokens_and_blocks_stay(network):
    run = run_of(network, Given({**tokens_at(1, SOME), (2, COND): Decision(Kind.PARTIAL, "given", blocks=(0, 1))},
                                ranges=((0, 1),)), steps=3, plan=sequential(2, 2, 3, commit=False))
    keys = []
    run.run(lambda progress: keys.append([run.cache.store.read(layer, COND, [0])[0].clone() for layer in (0, 1)]))
    rest = [n for n in range(N) if n not in SOME]
    for layer in (0, 1):
        assert torch.equal(keys[0][layer][:, :, rest], keys[1][layer][:, :, rest])
        assert not torch.isclose(keys[0][layer][:, :, SOME], keys[1][layer][:, :, SOME]).all(-1).any()
    assert torch.equal(keys[1][0], keys[2][0]) and not torch.equal(keys[1][1], keys[2][1])


class Second(NoHooks):
    """Remembers what the first block added, and adds it again in place of running it."""

    def __init__(self):
        self.added, self.again = None, False

    def block(self, index, x, run):
        if index == 0 and self.again:
            return x.hidden + self.added
        hidden = run(x)
        self.added = hidden - x.hidden if index == 0 else self.added
        return hidden


def test_a_range_of_blocks_is_replaced_by_what_it_added(network):
    gap = Decision(Kind.PARTIAL, "given", blocks=(0, 1))
    run = run_of(network, Given({(1, COND): gap, (2, COND): gap}, ranges=((0, 1),)), steps=3)
    found, hooks = run.run(), Second()
    x, table, words = run_of(network, Given()).video.latents, flow_table(3, 3.0), words_of(network, 1)[COND][0]
    with torch.inference_mode():
        for step in range(3):
            v = network(x, torch.full((1, 2), table.timesteps[step]), words, None, hooks)
            x, hooks.again = x + v * (table.sigmas[step + 1] - table.sigmas[step]), True
    torch.testing.assert_close(found, x, atol=1e-5, rtol=1e-5)
    assert [p.lanes[0].share for p in run.trace.passes] == [1, 0.5, 0.5]


@by_stage
@pytest.mark.parametrize("batched", [True, False])
def test_uncond_is_derived_from_cond_and_not_run(network, predictor, batched):
    derive = Decision(Kind.DERIVE, "given", source_stream=COND, factors=(1.1, 0.9))
    run = run_of(network, Given({(1, UNCOND): derive}), predictor=predictor, guidance=3.0, batch_streams=batched)
    found, table, words = run.run(), flow_table(2, 3.0), words_of(network, 1)
    x, difference = run_of(network, Given()).video.latents, None
    with torch.inference_mode():
        for step in range(2):
            at = torch.full((1, 2), table.timesteps[step])
            c, u = (network(x, at, words[stream][0]) for stream in (COND, UNCOND))
            u = u if step == 0 else derived(c[0], difference, (1.1, 0.9))[None]
            difference = (u - c)[0]
            x = x + (u + 3 * (c - u)) * (table.sigmas[step + 1] - table.sigmas[step])
    torch.testing.assert_close(found, x, atol=2e-5, rtol=1e-5)
    assert [p.calls for p in run.trace.passes] == [2, 1] and run.trace.summary()["derived"] == 1


def test_rows_of_a_batch_with_unlike_work_are_what_they_are_alone(network):
    """Item 0: tokens in cond, derived uncond; item 1 other tokens, a gap of blocks; then all of it reused."""
    class ByItem(Given):
        def decide(self, state, info, signal):
            return self.table.get((info.step, info.stream, info.item), Decision(Kind.COMPUTE, "given"))

    table = {(1, COND, 0): Decision(Kind.PARTIAL, "a", tokens=SOME),
             (1, COND, 1): Decision(Kind.PARTIAL, "a", tokens=(1,)),
             (1, UNCOND, 0): Decision(Kind.DERIVE, "a", source_stream=COND),
             (1, UNCOND, 1): Decision(Kind.PARTIAL, "a", blocks=(1, 2)),
             (2, COND, 0): Decision(Kind.REUSE, "a"), (2, UNCOND, 1): Decision(Kind.REUSE, "a")}
    for predictor in PREDICTORS.names():
        settings = {"plan": sequential(4, 2, 4), "steps": 4, "predictor": predictor, "guidance": 2.0}
        policy = ByItem(table, ((1, 2),))
        together, apart, alone = (run_of(network, policy, items=items, batch_streams=batched, **settings).run()
                                  for items, batched in ((2, True), (2, False), (1, True)))
        torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-5)


def test_guidance_whose_other_streams_see_the_first_ones_keys():
    """MAGI-1's three passes: tokens in part where keys are kept, the other streams derived or computed."""
    network = small_magi()
    some = Decision(Kind.PARTIAL, "given", tokens=SOME)
    derive = Decision(Kind.DERIVE, "given", source_stream=UNCOND)
    policy = Given({(1, UNCOND): some, (1, COND): some, (1, "alone#0"): derive, (2, COND): derive})
    words = {stream: words_of(network, 1)[COND] for stream in (COND, UNCOND, "alone#0")}
    settings = RunSettings(flow_table(3, 3.0), SIDE, SIDE, solver=Euler(), policy=policy,
                           guidance=MagiGuidance(late=1e4))
    run = Generation(network, sequential(2, 2, 3, commit=False), settings, words)
    assert run.run().isfinite().all()
    made = {(lane.step, lane.stream): lane.decision for p in run.trace.passes for lane in p.lanes}
    assert [made[1, s] for s in (UNCOND, COND, "alone#0")] == ["partial", "compute", "derive"]
    assert made[2, COND] == "derive" and made[2, "alone#0"] == "compute"


def test_what_cannot_be_done_in_part_is_computed_and_says_so(network):
    policy = Given({**tokens_at(1, SOME), (0, UNCOND): Decision(Kind.DERIVE, "given", source_stream=COND)})
    run = run_of(network, policy, plan=dense(4, 2, 2), guidance=2.0)
    run.run()
    reasons = {lane.reason for p in run.trace.passes for lane in p.lanes} - {"given"}
    assert run.trace.computed_share == 1
    assert reasons == {"the keys of its other tokens are not stored", "nothing to reuse yet"}


@pytest.mark.parametrize(("decision", "message"), [
    (lambda: Decision(Kind.PARTIAL, "a"), "either tokens"),
    (lambda: Decision(Kind.PARTIAL, "a", tokens=(1,), blocks=(0, 1)), "either tokens"),
    (lambda: Decision(Kind.DERIVE, "a"), "source_stream")])
def test_half_made_decisions_are_refused(decision, message):
    with pytest.raises(ValueError, match=message):
        decision()


@pytest.mark.parametrize(("decision", "message"), [
    (Decision(Kind.PARTIAL, "a", tokens=(3, 1)), "must ascend in 0 to 7"),
    (Decision(Kind.PARTIAL, "a", tokens=(3, N)), "must ascend in 0 to 7"),
    (Decision(Kind.PREDICT, "a"), "only repeats: use taylor")])
def test_decisions_that_no_run_can_carry_out_are_refused(decision, message):
    with pytest.raises(ValueError, match=message):
        run_of(tiny_wan(), Given({(1, COND): decision})).run()


def test_low_frequencies_by_hand():
    """Of a 10 x 10 frame the disc of radius 2 keeps waves of up to two periods, and the mean."""
    place = torch.arange(10) * 2 * torch.pi / 10
    slow, fast = torch.cos(2 * place), torch.cos(4 * place)
    frame = (1 + slow + fast).expand(1, 3, 10, 10)
    torch.testing.assert_close(low_frequencies(frame), (1 + slow).expand(1, 3, 10, 10), atol=1e-5, rtol=0)
    torch.testing.assert_close(derived(frame, frame, (2.0, 3.0)), frame + (2 + 2 * slow + 3 * fast), atol=1e-5, rtol=0)
    assert torch.equal(derived(frame, frame), frame + frame)


def test_an_exact_difference_gives_the_exact_velocity_for_every_guidance():
    c, u = normal(4, 2, 6, 6), normal(4, 2, 6, 6, seed=1)
    for factors in ((1.0, 1.0), (1.0, 1.0 + 1e-7)):
        torch.testing.assert_close(derived(c, u - c, factors), u, atol=1e-5, rtol=1e-5)


def test_the_tiny_networks_have_the_sizes_this_page_counts_on(network):
    assert network.sizes.layers == 2 and network.sizes.channels == TINY.channels
