"""Frames that are given: held inside a chunk, noised for the network alone, behind the video, seen by joint passes."""

import pytest
import torch

from flowcache_core.generation import Generation, Given, RunSettings
from flowcache_core.plan import dense, diffusion_forcing, sequential, with_end_frame
from flowcache_core.reuse.policies.every_nth import EveryNth
from flowcache_core.reuse.predictors import Residual, Velocity
from flowcache_core.solvers import NOISE_RULES, Euler, Renoise, UniPC, flow_table
from tests.reference import SIDE, TINY, TOKENS, Masked, block_causal, normal, texts, tiny_wan

IMAGE = normal(1, TINY.channels, 1, SIDE, SIDE, seed=7)
TABLE = flow_table(4, 3.0)


class Seen:
    """A backbone that records what it is shown."""

    def __init__(self):
        self.inner, self.calls = tiny_wan(), []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, latent, timestep, text, places, hooks):
        self.calls.append((latent.clone(), timestep.clone(), tuple(places)))
        return self.inner(latent, timestep, text, places, hooks)


def run_of(plan, given, model=None, **settings):
    return Generation(model or tiny_wan(), plan, RunSettings(settings.pop("table", TABLE), SIDE, SIDE, **settings),
                      texts(len(plan.chunks) - plan.end_chunks), given)


PLANS = [diffusion_forcing(7, 3, 4, 2), diffusion_forcing(7, 3, 4, 0), dense(7, 3, 4), dense(7, 3, 4, ar_step=2),
         sequential(7, 3, 4)]
by_plan = pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.name}-{len(plan.rows)}")


@by_plan
@pytest.mark.parametrize("level", [None, 0, 20])
@pytest.mark.parametrize(("solver", "predictor"), [(UniPC(), Velocity()), (Renoise(), Residual())],
                         ids=["unipc", "renoise"])
def test_a_held_frame_keeps_its_bits_and_is_told_its_own_time(plan, level, solver, predictor):
    model = Seen()
    run = run_of(plan, Given(held={0: IMAGE}), model, given_noise=level, solver=solver, guidance=2.0,
                 policy=EveryNth(), predictor=predictor)
    latents = run.run(lambda progress: None, lambda chunk, latent: None)
    assert torch.equal(latents[:, :, :1], IMAGE) and latents.isfinite().all()
    shown = [(latent[:, :, places.index(0)], times[:, places.index(0)], times[:, places.index(1)])
             for latent, times, places in model.calls if 0 in places]
    assert shown
    for latent, told, neighbour in shown:
        assert (told == (level or 0)).all() and (neighbour != told).any() or (neighbour == 0).all()
        assert torch.equal(latent[:1], IMAGE[:, :, 0]) == (not level)
        assert torch.allclose(latent[:1], IMAGE[:, :, 0], atol=0.02 * 6)


@by_plan
def test_a_held_frame_changes_the_rest_of_its_chunk(plan):
    plain, held = (run_of(plan, given).run() for given in (Given(), Given(held={0: IMAGE})))
    assert not torch.allclose(plain[:, :, 1:3], held[:, :, 1:3], atol=1e-3)


def test_the_other_frames_step_as_in_a_loop_by_hand():
    """One chunk, Euler: the held frame stands at time 0 and the others see it there."""
    model, plan, text = tiny_wan(), sequential(3, 3, 4, commit=False), texts(1)["cond#0"][0]
    found = run_of(plan, Given(held={0: IMAGE}), model, solver=Euler()).run()
    x = NOISE_RULES["per_chunk"]().initial(0, (1, TINY.channels, 3, SIDE, SIDE), plan.chunks)
    x[:, :, :1] = IMAGE
    for index in range(4):
        t = TABLE.timesteps[index]
        velocity = model(x, torch.tensor([[0.0, t, t]]), text)
        x[:, :, 1:] += (TABLE.sigmas[index + 1] - TABLE.sigmas[index]) * velocity[:, :, 1:]
    torch.testing.assert_close(found, x, atol=1e-5, rtol=0)


def test_the_noise_on_given_frames_is_fresh_in_every_row_and_repeats_with_the_seed():
    seen = []
    for seed in (1, 1, 2):
        model = Seen()
        run_of(dense(6, 2, 4, prefix_chunks=1), Given(normal(1, 4, 2, SIDE, SIDE, seed=3)), model, given_noise=50,
               seed=seed).run()
        seen.append([latent[:, :, :2] for latent, _, _ in model.calls])
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
    assert not torch.equal(seen[0][0], seen[0][1]) and not torch.equal(seen[0][0], seen[2][0])


def test_the_noise_is_what_the_rule_says_and_both_streams_see_the_same():
    model, prefix = Seen(), normal(1, 4, 2, SIDE, SIDE, seed=3)
    run = run_of(diffusion_forcing(6, 2, 4, 2, prefix_chunks=1), Given(prefix), model, given_noise=20, guidance=3.0,
                 batch_streams=False)
    assert torch.equal(run.run()[:, :, :2], prefix)
    noise = NOISE_RULES["per_chunk"]().fresh(0, prefix.shape, 0, -2)
    (first, times, _), (second, _, _) = model.calls[:2]
    torch.testing.assert_close(first, prefix * 0.98 + noise * 0.02, atol=1e-6, rtol=0)
    assert torch.equal(first, second) and (times == 20).all()


def test_more_noise_than_there_is_is_refused():
    with pytest.raises(ValueError, match="noise of 1001"):
        RunSettings(TABLE, SIDE, SIDE, given_noise=1001)


@pytest.mark.parametrize("plan", PLANS[:4], ids=lambda plan: f"{plan.name}-{len(plan.rows)}")
def test_an_end_frame_is_seen_is_never_changed_and_is_cut_off(plan):
    model, ended = Seen(), with_end_frame(plan)
    run = run_of(ended, Given(end=IMAGE), model, guidance=2.0, given_noise=20)
    latents = run.run()
    assert latents.shape[2] == plan.frames and torch.equal(run.video.latents[:, :, plan.frames:], IMAGE)
    shown = [(latent[:1, :, places.index(plan.frames)], times[0, places.index(plan.frames)])
             for latent, times, places in model.calls if plan.frames in places]
    assert shown and all(torch.equal(x, IMAGE[:, :, 0]) and t == 0 for x, t in shown)
    other = run_of(ended, Given(end=-IMAGE), guidance=2.0, given_noise=20).run()
    assert not torch.allclose(latents[:, :, -1], other[:, :, -1], atol=1e-3)
    assert not torch.allclose(latents[:, :, 0], other[:, :, 0], atol=1e-4)


def test_the_noise_of_the_video_does_not_depend_on_an_end_frame():
    for rule in ("per_chunk", "comfy_ar"):
        plain, ended = (run_of(plan, given, noise_rule=NOISE_RULES[rule]()).video.latents for plan, given in
                        ((PLANS[0], Given()), (with_end_frame(PLANS[0]), Given(end=IMAGE))))
        assert torch.equal(plain, ended[:, :, :-1])


def test_an_end_frame_of_a_causal_plan_equals_a_mask_in_which_all_see_it():
    """One Euler step of three chunks in step: the end frame sees itself, chunks see it and what is before them."""
    model, plan = tiny_wan(), with_end_frame(diffusion_forcing(6, 2, 1, 0))
    table = flow_table(1, 3.0)
    run = run_of(plan, Given(end=IMAGE), model, table=table, solver=Euler())
    x = run.video.latents.clone()
    found = run.run()
    visible = block_causal([2 * TOKENS] * 3 + [TOKENS])
    visible[:, -TOKENS:] = True
    visible[-TOKENS:, :-TOKENS] = False
    times = torch.tensor([[table.timesteps[0]] * 6 + [0.0]])
    velocity = model(x, times, texts(1)["cond#0"][0], hooks=Masked(visible))
    torch.testing.assert_close(found, (x - table.sigmas[0] * velocity)[:, :, :6], atol=1e-5, rtol=1e-5)


def test_a_dense_pyramid_shows_waiting_chunks_as_noise_and_finished_ones_clean():
    model, plan = Seen(), dense(6, 2, 4, ar_step=2)
    latents = run_of(plan, Given(), model, solver=Euler(), policy=EveryNth()).run()
    noise = NOISE_RULES["per_chunk"]().initial(0, latents.shape, plan.chunks)
    first, last = model.calls[0], model.calls[-1]
    assert first[1][0].tolist() == [TABLE.timesteps[0]] * 6 and torch.equal(first[0], noise)
    assert last[1][0].tolist() == [0.0] * 4 + [TABLE.timesteps[3]] * 2
    assert torch.equal(last[0][:, :, :4], latents[:, :, :4])


def test_a_dense_pyramid_steps_as_in_a_loop_by_hand():
    model, plan, text = tiny_wan(), dense(4, 2, 3, ar_step=1), texts(1)["cond#0"][0]
    table = flow_table(3, 3.0)
    found = run_of(plan, Given(), model, table=table, solver=Euler()).run()
    x = NOISE_RULES["per_chunk"]().initial(0, found.shape, plan.chunks)
    for steps in ((0, -1), (1, 0), (2, 1), (3, 2)):
        told = [0.0 if s == 3 else table.timesteps[max(s, 0)] for s in steps]
        velocity = model(x, torch.tensor([[t for t in told for _ in range(2)]]), text)
        for chunk, s in enumerate(steps):
            if 0 <= s < 3:
                own = slice(2 * chunk, 2 * chunk + 2)
                x[:, :, own] += (table.sigmas[s + 1] - table.sigmas[s]) * velocity[:, :, own]
    torch.testing.assert_close(found, x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("predictor", [Velocity(), Residual()], ids=lambda p: p.name)
def test_a_joint_pass_with_still_chunks_is_skipped_where_all_that_move_are(predictor):
    plan = with_end_frame(dense(4, 2, 6, prefix_chunks=1))
    prefix = normal(1, 4, 2, SIDE, SIDE, seed=3)
    run = run_of(plan, Given(prefix, IMAGE), table=flow_table(6, 3.0), policy=EveryNth(), predictor=predictor,
                 guidance=2.0)
    latents = run.run()
    assert run.trace.counts()["reuse"] > 0 and latents.isfinite().all()
    assert torch.equal(latents[:, :, :2], prefix)
    assert {lane.chunk for p in run.trace.passes for lane in p.lanes} == {1}


@pytest.mark.parametrize(("given", "value"), [
    (Given(held={9: IMAGE}), "held frame 9"), (Given(held={0: IMAGE[:, :, :0]}), "held frame 0 of 0"),
    (Given(end=IMAGE), "end frame of 1"), (Given(held={0: IMAGE[..., :2]}), "held frame 0 (1, 4, 1, 4, 2)")])
def test_what_does_not_fit_is_refused(given, value):
    with pytest.raises(ValueError, match=r"\w") as error:
        run_of(PLANS[0], given)
    assert value in str(error.value)
