"""Noise levels against the released tables and against the tables of the model pages."""


import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache_core.solvers import SigmaTable, flow_table, listed_table
from tests.reference import PROPERTY


@pytest.mark.parametrize(("steps", "shift", "begin", "end"), [
    (30, 8, [999, 995, 991, 986, 980, 975, 969], [743, 708, 666, 615, 551, 470, 363, 216]),
    (50, 8, [999, 997, 994, 991, 989, 986], [666, 636, 603, 565, 521, 470, 409, 337, 249, 140]),
    (30, 5, [999, 992, 985, 978, 969, 961], [603, 555, 499, 434, 356, 262, 146]),
    (50, 5, [999, 995, 991, 987, 982], [405, 356, 302, 241, 172, 92])])
def test_the_timesteps_of_the_skyreels_page(steps, shift, begin, end):
    timesteps = list(flow_table(steps, shift).timesteps)
    assert (timesteps[:len(begin)], timesteps[-len(end):]) == (begin, end)


@pytest.mark.parametrize(("listed", "shift", "warp", "timesteps", "sigmas"), [
    ([1000, 750, 500, 250], 5, True, [1000, 937.5, 833.33, 625], [1, 0.9375, 0.8333, 0.625]),
    ([1000, 500], 5, True, [1000, 833.33], [1, 0.8333]),
    ([1000, 800, 600, 400, 200], 5, True, [1000, 952.38, 882.35, 769.23, 555.56], [1, 0.9524, 0.8824, 0.7692, 0.5556]),
    ([1000, 757, 522], 8, False, [1000, 757, 522], [1, 0.7568, 0.5217])])
def test_the_step_lists_of_the_wan_page(listed, shift, warp, timesteps, sigmas):
    table = listed_table(listed, shift, warp)
    assert table.timesteps == pytest.approx(timesteps, abs=5e-3)
    assert table.sigmas == pytest.approx([*sigmas, 0], abs=5e-5)


@PROPERTY
@given(st.integers(1, 200), st.floats(0.2, 20), st.booleans())
def test_levels_fall_from_below_one_to_zero(steps, shift, truncate):
    table = flow_table(steps, shift, truncate)
    assert table.steps == steps == len(table.sigmas) - 1
    assert 1 > table.sigmas[0] and table.sigmas[-1] == 0
    assert all(a > b for a, b in zip(table.sigmas[:-1], table.sigmas[1:], strict=True))
    assert all(0 <= t <= 1000 for t in table.timesteps)
    lost = [1000 * sigma - t for sigma, t in zip(table.sigmas[:-1], table.timesteps, strict=True)]
    assert all(-1e-3 < value < 1.001 if truncate else abs(value) < 1e-3 for value in lost)


def test_untruncated_timesteps_are_the_sigmas():
    table = flow_table(7, 3.0, truncate=False)
    assert table.timesteps == pytest.approx([1000 * s for s in table.sigmas[:-1]], abs=1e-3)


@pytest.mark.parametrize(("make", "value"), [
    (lambda: flow_table(0, 5), "0 steps"),
    (lambda: flow_table(10, 0), "shift 0"),
    (lambda: flow_table(10, float("nan")), "shift nan"),
    (lambda: flow_table(10, float("inf")), "shift inf"),
    (lambda: listed_table([], 5), "0 steps"),
    (lambda: listed_table([1000, 0], 5), "1000, 0"),
    (lambda: listed_table([1001, 500], 5), "1001"),
    (lambda: listed_table([1000, 500.5], 5), "500.5"),
    (lambda: listed_table([0.5], 5), "0.5"),
    (lambda: listed_table([500, 1000], 5), "sigmas"),
    (lambda: listed_table([500, 500], 5), "sigmas"),
    (lambda: SigmaTable((1.0, 0.5), (1000.0,)), "last one 0"),
    (lambda: SigmaTable((1.0, 0.0), ()), "2 sigmas for 0 timesteps")])
def test_a_table_that_cannot_be_made_says_why(make, value):
    with pytest.raises(ValueError, match=r"\w") as error:
        make()
    assert value in str(error.value)
