"""What policies are told of a step, and what the stand-ins of before would have cost, by hand."""

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch

from flowcache_core.fingerprint import fingerprint, same_network
from flowcache_core.plan import diffusion_forcing, pipelined, sequential
from flowcache_core.plan.context import context_changes
from flowcache_core.reuse import PREDICTORS, Decision, Kind
from flowcache_core.reuse.signals import relative_l1
from flowcache_core.solvers import Euler
from tests.backbones.test_magi import small_magi
from tests.reference import TINY, normal, tiny_run, tiny_wan
from tests.reuse.toy import Given

COND, UNCOND = "cond#0", "uncond#0"


@dataclass(frozen=True)
class Listens(Given):
    """Writes down whatever it is told."""

    learns: ClassVar[bool] = True
    measures: ClassVar[bool] = True
    seen: list = field(default_factory=list)
    looks_at: str = "none"

    @property
    def signal(self):
        return self.looks_at

    def observe(self, state, info, signal, decision):
        self.seen.append((info, signal))
        return state

    def learn(self, state, info, decision, outcome):
        self.seen.append((info, outcome))
        return state


def outcomes(policy):
    return {(i.chunk, i.step, i.stream): o for i, o in policy.seen if o is not None and hasattr(o, "guided")}


@pytest.mark.parametrize("predictor", ["velocity", "residual"])
@pytest.mark.parametrize("batched", [True, False])
def test_losses_are_what_the_old_stand_ins_would_have_cost(predictor, batched):
    policy = Listens(ranges=((0, 2), (1, 2)))
    tiny_run(sequential(2, 2, 3), policy=policy, predictor=PREDICTORS.make(predictor), guidance=3.0,
             batch_streams=batched).run()
    told = outcomes(policy)
    assert not told[0, 0, COND].losses
    for step in (1, 2):
        now, before = ({s: told[0, at, s] for s in (COND, UNCOND)} for at in (step, step - 1))
        guided = now[COND].guided
        torch.testing.assert_close(guided, 3 * now[COND].velocity - 2 * now[UNCOND].velocity, atol=1e-5, rtol=1e-5)
        moved = [at[UNCOND].velocity - at[COND].velocity for at in (now, before)]
        derive = 2 * (moved[0] - moved[1]).abs().mean() / guided.abs().mean()
        assert now[COND].losses == now[UNCOND].losses
        assert now[COND].losses["derive"] == pytest.approx(float(derive), rel=1e-4)
        assert now[COND].losses[1, 2] > 0
        if predictor == "velocity":
            step_loss = relative_l1(before[COND].guided, guided)
            assert now[COND].losses["step"] == pytest.approx(step_loss, rel=1e-4)
        else:   # a range of all blocks is the whole residual
            assert now[COND].losses["step"] == pytest.approx(now[COND].losses[0, 2], rel=1e-4)


def test_an_outcome_holds_the_latent_after_the_step_and_the_frame_before_the_chunk():
    policy, after = Listens(), {}
    run = tiny_run(sequential(4, 2, 2), policy=policy, solver=Euler())
    run.run(lambda p: after.update({(p.last.chunks[0], p.last.steps): run.video.latents.clone()}))
    for (chunk, step, _), outcome in outcomes(policy).items():
        latents = after[chunk, (step,)]
        assert torch.equal(outcome.latent, latents[0, :, 2 * chunk:2 * chunk + 2])
        assert outcome.before is None if chunk == 0 else torch.equal(outcome.before, latents[0, :, 1])


def test_losses_need_all_streams_whole():
    policy = Listens({(1, UNCOND): Decision(Kind.DERIVE, "given", source_stream=COND)})
    tiny_run(sequential(2, 2, 3), policy=policy, guidance=3.0).run()
    told = outcomes(policy)
    assert not told[0, 1, COND].losses and set(told[0, 2, COND].losses) == {"step", "derive"}


def test_a_blended_step_is_told_once_and_as_blended():
    policy = Listens()
    run = tiny_run(pipelined(6, 2, 4, 2, near_clean_from=3), policy=policy)
    run.run()
    assert len(outcomes(policy)) == run.plan.chunk_steps()


@pytest.mark.parametrize("kind", ["latent", "guided_velocity", "hidden", "history"])
def test_signals(kind):
    policy = Listens(looks_at=kind)
    run = tiny_run(diffusion_forcing(4, 2, 4, 2), policy=policy, predictor=PREDICTORS.make("residual"), solver=Euler())
    latents = []
    run.run(lambda p: latents.append(run.video.latents.clone()))
    signals = {(i.chunk, i.step): s for i, s in policy.seen if not hasattr(s, "guided")}
    told = outcomes(policy)
    if kind == "latent":
        assert torch.equal(signals[0, 1], told[0, 0, COND].latent)
    elif kind == "guided_velocity":
        assert signals[0, 0] is None and torch.equal(signals[1, 2], told[1, 1, COND].guided)
    elif kind == "hidden":
        assert signals[0, 0] is None and signals[0, 1].shape == (8, TINY.dim)
    else:
        known = {(c, s): signals[c, s] is not None for c in (0, 1) for s in range(4)}
        assert known == {(c, s): c == 1 and s < 2 for c in (0, 1) for s in range(4)}   # until chunk 0 has finished
        with torch.inference_mode():
            expected = run.backbone.patch_tokens(told[0, 2, COND].latent[None])[0]
        torch.testing.assert_close(signals[1, 0], expected)


def test_a_context_changes_where_a_chunk_that_is_seen_enters_or_finishes():
    assert context_changes(diffusion_forcing(4, 2, 4, 2)) == {(1, 2)}   # chunk 0 finishes after two of its rows
    assert context_changes(sequential(6, 2, 4)) == frozenset()


def test_fingerprints_tell_networks_apart_and_not_dtypes():
    prints = [fingerprint(network) for network in (tiny_wan(), tiny_wan(), tiny_wan(seed=1), small_magi())]
    assert prints[0] == prints[1] and not same_network(prints[0], prints[2]) and not same_network(prints[0], prints[3])
    assert same_network(prints[0], fingerprint(tiny_wan().bfloat16()))
    nudged = tiny_wan()
    nudged.patch_embedding.weight += 0.05 * normal(*nudged.patch_embedding.weight.shape)
    assert not same_network(prints[0], fingerprint(nudged))
