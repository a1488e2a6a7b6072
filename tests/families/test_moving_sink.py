"""A sink that moves along is one whose keys are computed for its new place."""

import pytest
import torch

from flowcache_core.backbones.hooks import rotate
from flowcache_core.backbones.wan import rope_table, shift_keys
from flowcache_core.plan import History, diffusion_forcing, sequential
from flowcache_core.solvers import Renoise
from tests.families.keys import FEW, Keys, few_steps, joined
from tests.reference import TINY, normal, tiny_run, tiny_wan

CPU = torch.device("cpu")


@pytest.mark.parametrize("frames", [0, 1, -3, 12, 1500])
def test_a_turned_key_is_the_key_rotated_for_its_new_place(frames):
    raw, places = normal(2, 3, 12, 128), range(5, 8)
    before, after = (rotate(raw, rope_table([p + extra for p in places], 2, 2, 128, CPU)) for extra in (0, frames))
    torch.testing.assert_close(shift_keys(before, frames), after, atol=1e-5, rtol=0)
    torch.testing.assert_close(shift_keys(shift_keys(before, frames), -frames), before, atol=1e-5, rtol=0)


def test_turning_a_bf16_key_costs_one_rounding():
    raw = normal(1, 2, 4, 128)
    stored = rotate(raw, rope_table((3,), 2, 2, 128, CPU)).bfloat16()
    exact = rotate(raw, rope_table((40,), 2, 2, 128, CPU))
    error = (shift_keys(stored, 37).float() - exact).norm() / exact.norm()
    assert shift_keys(stored, 37).dtype == torch.bfloat16 and error < 3e-3


@pytest.mark.parametrize("recent", [0, 1, 2])
def test_a_sink_that_moves_equals_keys_computed_at_the_new_place(recent):
    """The sink sees itself alone, so a pass of it at another place gives the same keys but for their rotation."""
    model, plan = tiny_wan(), sequential(14, 2, 2, history=History(recent, 1, rebase=True))
    latents = tiny_run(plan, model, table=FEW, solver=Renoise()).run()
    text, clean, last = normal(1, 5, TINY.dim, seed=100), torch.zeros(1, 2), 6
    caches = []
    for chunk in range(last):
        caches.append(cached(model, plan, latents, text, caches, chunk, clean))
    found = tiny_run(plan, model, table=FEW, solver=Renoise())
    expected = few_steps(model, found, text, last, reads(model, plan, latents, text, caches, last, clean))
    torch.testing.assert_close(found.run()[:, :, 12:], expected, atol=2e-5, rtol=1e-5)


def reads(model, plan, latents, text, caches, chunk, clean):
    """Keys that a chunk sees: the sink computed where it is told to be, the others as cached."""
    p = next(p for p in plan.passes() if p.chunks == (chunk,))
    parts = []
    for c in p.reads:
        delta = plan.moved(p).get(c, 0)
        if delta:
            hooks = Keys()
            model(latents[:, :, 2 * c:2 * c + 2], clean, text, (2 * c + delta, 2 * c + 1 + delta), hooks)
            parts.append(hooks.own)
        else:
            parts.append(caches[c])
    return joined(*parts) if parts else None


def cached(model, plan, latents, text, caches, chunk, clean):
    hooks = Keys(reads(model, plan, latents, text, caches, chunk, clean))
    model(latents[:, :, 2 * chunk:2 * chunk + 2], clean, text, (2 * chunk, 2 * chunk + 1), hooks)
    return hooks.own


def test_until_the_window_is_full_a_moving_sink_changes_nothing_bit_for_bit():
    runs = [tiny_run(sequential(8, 2, 2, history=History(3, 1, rebase)), table=FEW, solver=Renoise()).run()
            for rebase in (False, True)]
    assert torch.equal(*runs)
    longer = [tiny_run(sequential(14, 2, 2, history=History(3, 1, rebase)), table=FEW, solver=Renoise()).run()
              for rebase in (False, True)]
    assert not torch.allclose(*longer, atol=1e-4)


def test_a_network_that_cannot_turn_keys_is_refused_a_moving_sink():
    class Rigid:
        def __init__(self):
            self.inner = tiny_wan()

        def __getattr__(self, name):
            if name == "shift_keys":
                raise AttributeError(name)
            return getattr(self.inner, name)

    with pytest.raises(ValueError, match="cannot turn cached keys"):
        tiny_run(sequential(14, 2, 2, history=History(1, 1, rebase=True)), Rigid(), table=FEW)


def test_a_rolling_diffusion_forcing_video_sees_a_sink_that_moves():
    plan = diffusion_forcing(14, 2, 4, 2, base_chunks=2, history=History(sink=1, rebase=True))
    run = tiny_run(plan, guidance=2.0)
    assert run.run().isfinite().all() and any(plan.moved(p) for p in plan.passes())
