"""MAGI-1's time grid against the released tables."""

import json

import pytest
import torch

from flowcache_core.solvers.magi_times import SHORTCUTS, TRANSFORMS, magi_intervals, magi_table, magi_times
from tests.reference import golden


def test_times_and_intervals_are_those_of_the_release():
    cases = json.loads(golden("magi_schedule.json").read_text())["cases"]
    for case in cases:
        given = {"shortcut": case["shortcut_mode"]}
        if case["schedule"] != "default":
            given["transform"] = case["schedule"]["tSchedulerFunc"]
            given["shift"] = case["schedule"].get("shift", 3.0)
        expected = case["expected"]
        assert list(magi_times(case["num_steps"], **given)) == expected["t_table"], case["id"]
        assert list(magi_intervals(case["num_steps"], given["shortcut"])) == expected["interval_table"], case["id"]
    assert len(cases) == 18


def test_the_times_of_the_magi_page():
    page = [0, .0013, .0053, .0120, .0217, .0348, .0517, .0731, .1, .1337, .1761, .23, .3, .3930, .5213, .7076, 1]
    assert magi_times(16) == pytest.approx(page, abs=1e-4)


@pytest.mark.parametrize("steps", [4, 8, 12, 16, 32, 64])
@pytest.mark.parametrize("shortcut", [None, *SHORTCUTS])
def test_quarters_begin_at_the_same_times_for_every_grid(steps, shortcut):
    times = magi_times(steps, shortcut=shortcut)
    assert times[::steps // 4] == pytest.approx([0, 1 / 46, 0.1, 0.3, 1], abs=1e-6)
    assert times[3 * steps // 4] > 0.3


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_table_is_the_grid_read_as_noise_levels(transform):
    times, table = magi_times(16, transform=transform), magi_table(16, transform=transform)
    assert table.sigmas == pytest.approx([1 - t for t in times], abs=2e-7)
    assert torch.equal(torch.tensor(table.timesteps), 1000 * torch.tensor(times[:-1]))
    assert table.sigmas[0] == 1 and table.sigmas[-1] == 0 and table.timesteps[0] == 0


@pytest.mark.parametrize(("settings", "value"), [
    ({"steps": 0}, "0 steps"), ({"shift": 0.0}, "shift 0.0"), ({"shift": float("nan")}, "shift nan"),
    ({"shortcut": "8,8,8"}, "'8,8,8'.*16,16,8"), ({"transform": "cosine"}, "'cosine'.*piecewise")])
def test_bad_values_are_named(settings, value):
    with pytest.raises(ValueError, match=value):
        magi_times(**{"steps": 16, **settings})
