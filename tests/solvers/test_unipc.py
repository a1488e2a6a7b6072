"""UniPC against the released solver, and both flow solvers on a flow whose solution is known."""

import math

import pytest
import torch

from flowcache_core.solvers import Euler, UniPC, flow_table, listed_table
from tests.reference import normal

MEAN, SPREAD = 0.7, 1.5   # Gaussian data: every pixel of a clean video is drawn from N(MEAN, SPREAD)


def run(solver, table, x, velocity):
    """All steps of `table` from `x`; velocity(x, sigma)."""
    state = solver.new_state()
    for index in range(table.steps):
        x, state = solver.step(state, x, velocity(x, table.sigmas[index]), index, table)
    return x


def spread_at(sigma):
    return math.sqrt(((1 - sigma) * SPREAD) ** 2 + sigma**2)


def exact_velocity(x, sigma):
    """E[noise - clean | x] of Gaussian data."""
    centred = (x - (1 - sigma) * MEAN) / spread_at(sigma) ** 2
    return sigma * centred - MEAN - (1 - sigma) * SPREAD**2 * centred


def gaussian_error(solver, steps):
    table, z = flow_table(steps, 1.0), normal(64).double()
    first = table.sigmas[0]
    end = run(solver, table, (1 - first) * MEAN + spread_at(first) * z, exact_velocity)
    return float((end - (MEAN + SPREAD * z)).square().mean().sqrt())


@pytest.mark.parametrize(("solver", "gain"), [(Euler(), 1.8), (UniPC(), 3.6)])
def test_converges_to_the_exact_flow(solver, gain):
    """First order halves the error with twice the steps, second order quarters it."""
    errors = [gaussian_error(solver, steps) for steps in (8, 16, 32, 64, 128)]
    assert all(coarse > gain * fine for coarse, fine in zip(errors[:-1], errors[1:], strict=True)), errors


@pytest.mark.parametrize("steps", [8, 16, 32])
def test_unipc_is_more_accurate_than_euler_at_equal_steps(steps):
    assert gaussian_error(UniPC(), steps) < gaussian_error(Euler(), steps) / 5


@pytest.mark.parametrize("solver", [Euler(), UniPC()])
@pytest.mark.parametrize("table", [flow_table(1, 5.0), flow_table(7, 5.0), listed_table([1000, 750, 500, 250], 5.0)],
                         ids=["one step", "seven steps", "from pure noise"])
def test_a_constant_velocity_is_followed_exactly(solver, table):
    noise, clean = normal(2, 3, 4, seed=1).double(), normal(2, 3, 4, seed=2).double()
    first = table.sigmas[0]
    end = run(solver, table, (1 - first) * clean + first * noise, lambda x, sigma: noise - clean)
    torch.testing.assert_close(end, clean, atol=1e-12, rtol=0)


@pytest.mark.parametrize("solver", [Euler(), UniPC()])
def test_a_step_changes_neither_its_inputs_nor_the_state_it_was_given(solver):
    table, state = flow_table(4, 3.0), solver.new_state()
    x, velocity = normal(8, seed=3), normal(8, seed=4)
    for index in range(3):
        before = (x.clone(), velocity.clone())
        first, after = solver.step(state, x, velocity, index, table)
        again, _ = solver.step(state, x, velocity, index, table)
        assert torch.equal(x, before[0]) and torch.equal(velocity, before[1])
        assert torch.equal(first, again)
        x, state = first, after


def test_two_chunks_with_a_state_each_do_not_touch_one_another():
    table, solver = flow_table(5, 3.0), UniPC()
    alone = [run(solver, table, normal(8, seed=s), exact_velocity) for s in (1, 2)]
    together, states = [normal(8, seed=1), normal(8, seed=2)], [solver.new_state(), solver.new_state()]
    for index in range(table.steps):
        for chunk in (0, 1):
            x, state = together[chunk], states[chunk]
            velocity = exact_velocity(x, table.sigmas[index])
            together[chunk], states[chunk] = solver.step(state, x, velocity, index, table)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
