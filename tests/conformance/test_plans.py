"""Schedules, outer windows, sigma tables and the solver, bit for bit where the vectors are exact."""

import pytest
import torch

from flowcache_core.conformance import released_windows
from flowcache_core.plan import outer_windows, step_table
from flowcache_core.solvers import UniPC, flow_table
from tests.conformance.golden import cases_of, listed, tensors_of

SCHEDULES = "schedule_diffusion_forcing*.json"


@pytest.mark.parametrize("case", cases_of(SCHEDULES), ids=lambda case: case["id"])
def test_schedule(case):
    block, expected = case["block"], case["expected"]
    arguments = (case["num_latent_frames"] // block, case["num_steps"], case["ar_step"], case["prefix_frames"] // block,
                 case["base_frames"] // block)
    if "error" in expected:
        sentence = {"ar_step_too_small": "ar_step", "nothing_to_denoise": "nothing to denoise",
                    "base_smaller_than_block": "base window"}[expected["error"]]
        with pytest.raises(ValueError, match=sentence):
            step_table(*arguments)
        return
    table = step_table(*arguments)
    assert [list(row) for row in table.state] == expected["step_index"]
    assert [list(map(int, row)) for row in table.updated] == expected["update_mask"]
    assert [[block * first, block * stop] for first, stop in table.valid] == expected["valid_interval"]


@pytest.mark.parametrize("case", listed(SCHEDULES, "flow_unipc_tables"),
                         ids=lambda case: f"{case['num_steps']}-{case['shift']}")
def test_sigma_table(case):
    table = flow_table(case["num_steps"], case["shift"])
    assert list(table.sigmas) == case["sigmas"] and list(table.timesteps) == case["timesteps"]


def latents(pixel_frames):
    return (pixel_frames - 1) // 4 + 1


@pytest.mark.parametrize("case", cases_of("window_plan*.json"), ids=lambda case: case["id"])
def test_outer_windows(case):
    block, expected = case["block"], case["expected"]
    frames, base, overlap = (latents(case[name]) for name in ("num_frames", "base_num_frames", "overlap_history"))
    ours = outer_windows(frames, base, overlap, block)
    assert ours[-1].stop == frames, "ours makes any length"
    if "error" in expected:
        with pytest.raises(ValueError, match="the release"):
            released_windows(frames, base, overlap, block)
        return
    windows = released_windows(frames, base, overlap, block)
    assert [{"frames": w.frames, "prefix_frames": w.prefix} for w in windows] == expected["windows"]
    assert windows[-1].stop == expected["total_latent_frames"] == frames
    pixels = [4 * (w.frames - 1) + 1 for w in windows]
    assert sum(pixels) - case["overlap_history"] * (len(windows) - 1) == expected["output_pixel_frames"]
    if overlap % block == 0:
        assert windows == ours


@pytest.mark.parametrize("case", cases_of("unipc_trace*.json"), ids=lambda case: case["id"])
def test_solver(case):
    tensors = tensors_of(case)
    outputs, samples = tensors[case["id"] + ".model_outputs"], tensors[case["id"] + ".samples"]
    table, solver = flow_table(case["num_steps"], case["shift"]), UniPC()
    x, state = samples[0], solver.new_state()
    for index in range(table.steps):
        x, state = solver.step(state, x, outputs[index], index, table)
        torch.testing.assert_close(x, samples[index + 1], atol=2e-6, rtol=2e-6)
