"""Chunk by chunk with cached keys equals one dense forward under the block-causal mask."""

import pytest
import torch

from flowcache_core.generation import Generation, RunSettings
from flowcache_core.plan import History, sequential
from flowcache_core.solvers import Euler, SigmaTable
from tests.reference import SIDE, TINY, TOKENS, Masked, block_causal, normal, tiny_wan

CONTEXT, LAST = 120.0, 640.0   # timesteps of the given chunks and of the one that is denoised
TABLE = SigmaTable((0.64, 0.0), (LAST,))


class Records:
    """A backbone that keeps every velocity it returns."""

    def __init__(self, inner):
        self.inner, self.velocities = inner, []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, *arguments):
        self.velocities.append(self.inner(*arguments))
        return self.velocities[-1]


@pytest.mark.parametrize(("frames", "chunk_frames"), [(6, 2), (7, 3), (4, 1), (9, 4), (2, 1)])
def test_prefix_passes_and_one_step_equal_the_masked_forward(frames, chunk_frames):
    model = Records(tiny_wan())
    plan = sequential(frames, chunk_frames, 1, prefix_chunks=-(-frames // chunk_frames) - 1, commit=False)
    given = plan.chunks[-1].start
    latents, text = normal(1, 4, frames, SIDE, SIDE), normal(1, 5, TINY.dim, seed=1)
    settings = RunSettings(TABLE, SIDE, SIDE, solver=Euler(), context_timestep=CONTEXT)
    run = Generation(model, plan, settings, {"cond#0": [text] * len(plan.chunks)}, prefix=latents[:, :, :given])
    run.video.latents[:, :, given:] = latents[:, :, given:]
    run.run()
    times = torch.tensor([[CONTEXT] * given + [LAST] * (frames - given)])
    sizes = [c.frames * TOKENS for c in plan.chunks]
    dense = model.inner(latents, times, text, hooks=Masked(block_causal(sizes)))
    torch.testing.assert_close(torch.cat(model.velocities, dim=2), dense, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("history", [History(1), History(2), History(1, sink=1), History(0)])
def test_a_history_is_a_narrower_mask(history):
    model, plan = Records(tiny_wan()), sequential(10, 2, 1, prefix_chunks=4, history=history, commit=False)
    latents, text = normal(1, 4, 10, SIDE, SIDE), normal(1, 5, TINY.dim, seed=1)
    settings = RunSettings(TABLE, SIDE, SIDE, solver=Euler(), context_timestep=CONTEXT)
    run = Generation(model, plan, settings, {"cond#0": [text] * 5}, prefix=latents[:, :, :8])
    run.video.latents[:, :, 8:] = latents[:, :, 8:]
    run.run()
    visible = torch.zeros(5, 5, dtype=torch.bool)
    for chunk in range(5):
        visible[chunk, [*history.before(chunk), chunk]] = True
    tokens = torch.arange(10 * TOKENS) // (2 * TOKENS)
    times = torch.tensor([[CONTEXT] * 8 + [LAST] * 2])
    dense = model.inner(latents, times, text, hooks=Masked(visible[tokens][:, tokens]))
    torch.testing.assert_close(torch.cat(model.velocities, dim=2), dense, atol=1e-5, rtol=1e-5)
