import pytest
import torch

from flowcache_core.solvers import SOLVERS, Euler, Renoise, UniPC, listed_table
from tests.reference import normal

TABLE = listed_table([1000, 750, 500, 250], 5.0)


def test_euler_by_hand():
    x, velocity = torch.tensor([2.0]), torch.tensor([4.0])
    moved, _ = Euler().step(None, x, velocity, 0, TABLE)
    assert moved.item() == pytest.approx(2 + (0.9375 - 1) * 4)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_renoise_estimates_the_clean_sample_and_adds_noise_of_the_next_level(index):
    x, velocity, noise = (normal(2, 4, 1, 2, 2, seed=s) for s in (1, 2, 3))
    now, following = TABLE.sigmas[index:index + 2]
    moved, _ = Renoise().step(None, x, velocity, index, TABLE, noise)
    torch.testing.assert_close(moved, (1 - following) * (x - now * velocity) + following * noise)


def test_the_last_renoise_step_is_the_clean_sample_and_needs_no_noise():
    x, velocity = normal(5, seed=1), normal(5, seed=2)
    moved, _ = Renoise().step(None, x, velocity, 3, TABLE)
    assert torch.equal(moved, x - TABLE.sigmas[3] * velocity)


def test_renoise_without_noise_names_the_step():
    with pytest.raises(ValueError, match="step 1 of the renoise solver"):
        Renoise().step(None, normal(2), normal(2), 1, TABLE)


def test_solvers_are_found_by_name_and_an_unknown_one_lists_them():
    assert {SOLVERS[name] for name in ("euler", "renoise", "unipc")} == {Euler, Renoise, UniPC}
    with pytest.raises(ValueError, match=r"'heun'.*euler.*renoise.*unipc"):
        SOLVERS["heun"]


def test_only_renoise_asks_for_noise():
    assert [name for name in SOLVERS.names() if SOLVERS[name].needs_noise] == ["renoise"]


@pytest.mark.parametrize("solver", [Euler(), Renoise(), UniPC()], ids=lambda s: s.name)
def test_a_step_from_the_clean_estimate_is_the_step_from_its_velocity(solver):
    x, velocity, noise = (normal(2, 4, 1, 2, 2, seed=s).double() for s in (1, 2, 3))
    clean = x - TABLE.sigmas[1] * velocity
    expected, _ = solver.step(solver.new_state(), x, velocity, 1, TABLE, noise)
    moved, _ = solver.step_clean(solver.new_state(), x, clean, 1, TABLE, noise)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)
