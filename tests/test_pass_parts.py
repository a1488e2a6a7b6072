"""A host may forward a pass in parts: one stream at a time, or a stream once more for a guidance of its own."""

import pytest
import torch

from flowcache_core.plan import diffusion_forcing
from flowcache_core.reuse.policies.flowcache import FlowCache
from flowcache_core.reuse.predictors import Residual, Velocity
from flowcache_core.solvers import Euler, Renoise, UniPC
from tests.reference import decisions, tiny_run, tiny_wan

PLAN = diffusion_forcing(6, 2, 6, 2, commit=True)
POLICY = FlowCache(threshold=0.3, distance_signal="patch_embedding", warmup_steps=1)


class Splitting:
    """Forwards the rows of a call stream by stream, uncond first; then cond once more, where `again`."""

    def __init__(self, again=False):
        self.inner, self.again = tiny_wan(), again

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, latent, timestep, text, frame_index, hooks):
        streams = list(dict.fromkeys(stream for stream, _ in hooks.rows))
        out = {}
        for stream, again in [*((s, False) for s in reversed(streams)), *([(streams[0], True)] if self.again else [])]:
            rows = [n for n, row in enumerate(hooks.rows) if row[0] == stream]
            part = hooks.part([hooks.rows[n] for n in rows], again)
            out[stream, again] = self.inner(latent[rows], timestep[rows], text[rows], frame_index, part)
            hooks.add_costs(part)
        return torch.cat([out[stream, False] for stream in streams])


@pytest.mark.parametrize("predictor", [Velocity(), Residual()], ids=lambda predictor: predictor.name)
@pytest.mark.parametrize("again", [False, True])
def test_a_pass_in_parts_is_the_pass_as_a_whole(predictor, again):
    runs = [tiny_run(PLAN, model, guidance=3.0, items=2, policy=POLICY, predictor=predictor, seed=5)
            for model in (tiny_wan(), Splitting(again))]
    whole, parts = (run.run() for run in runs)
    made = [decisions(run) for run in runs]
    assert made[0] == made[1] and len(set(made[0].values())) > 1
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)
    assert all(p.hook_seconds > 0 and p.keys for p in runs[1].trace.passes if p.calls)


class Guiding(Splitting):
    """Guides by itself, as a host does."""

    def __call__(self, latent, timestep, text, frame_index, hooks):
        velocities = super().__call__(latent, timestep, text, frame_index, hooks)
        if hooks.p.kind == "denoise":
            cond, uncond = velocities.chunk(2)
            (span,) = hooks.spans.values()
            hooks.clean = latent[:len(cond)] - span.sigma * (uncond + 3.0 * (cond - uncond))
        return velocities


@pytest.mark.parametrize("solver", [Euler(), UniPC(), Renoise()], ids=lambda solver: solver.name)
def test_a_host_that_guides_takes_the_steps_of_the_guidance_it_stands_for(solver):
    plan, policy = diffusion_forcing(4, 2, 4, 2), FlowCache(threshold=0.3, distance_signal="patch_embedding",
                                                            warmup_steps=1)
    whole, host = (tiny_run(plan, model, guidance=3.0, items=2, policy=policy, solver=solver, seed=5).run()
                   for model in (tiny_wan(), Guiding()))
    torch.testing.assert_close(host, whole, rtol=0, atol=1e-4)
