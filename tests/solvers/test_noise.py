import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowcache_core.plan import split_frames
from flowcache_core.solvers import NOISE_RULES
from tests.reference import PROPERTY

RULES = [NOISE_RULES[name]() for name in NOISE_RULES.names()]
PER_CHUNK, COMFY = NOISE_RULES["per_chunk"](), NOISE_RULES["comfy_ar"]()


@PROPERTY
@given(st.integers(0, 2**64 - 1), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_a_longer_video_begins_with_the_same_noise(seed, chunk_frames, chunks, more):
    short, long = (PER_CHUNK.initial(seed, (2, 3, n * chunk_frames, 2, 2), split_frames(n * chunk_frames, chunk_frames))
                   for n in (chunks, chunks + more))
    assert torch.equal(long[:, :, :short.shape[2]], short)


def test_item_0_of_a_batch_is_the_video_of_a_batch_of_one():
    chunks = split_frames(5, 2)
    assert torch.equal(PER_CHUNK.initial(7, (3, 4, 5, 2, 2), chunks)[:1], PER_CHUNK.initial(7, (1, 4, 5, 2, 2), chunks))
    assert torch.equal(PER_CHUNK.fresh(7, (3, 4, 2, 2, 2), 1, 2)[:1], PER_CHUNK.fresh(7, (1, 4, 2, 2, 2), 1, 2))


def test_seed_item_chunk_and_step_all_draw_apart():
    places = [(seed, chunk, step) for seed in (0, 1) for chunk in (0, 1) for step in (0, 1)]
    draws = [PER_CHUNK.fresh(seed, (2, 4, 2, 2, 2), chunk, step) for seed, chunk, step in places]
    draws.append(PER_CHUNK.initial(0, (2, 4, 2, 2, 2), split_frames(2, 2)))
    rows = torch.cat(draws).flatten(1)
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)
    assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 0.8


@pytest.mark.parametrize("seed", [0, 1234, 2**63])
def test_comfy_ar_is_the_recipe_of_the_host(seed):
    """One draw from the global generator for the video, reseeded with `seed + 1000 chunk + step` before each step."""
    shape, part = (1, 4, 6, 2, 2), (1, 4, 3, 2, 2)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        whole = torch.randn(shape)
        torch.manual_seed(seed + 1 * 1000 + 2)
        step = torch.randn(part)
    assert torch.equal(COMFY.initial(seed, shape, split_frames(6, 3)), whole)
    assert torch.equal(COMFY.fresh(seed, part, 1, 2), step)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_noise_is_standard_normal_repeatable_and_leaves_the_global_generator_alone(rule):
    shape, chunks = (2, 4, 40, 8, 8), split_frames(40, 7)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    noise, fresh = rule.initial(3, shape, chunks), rule.fresh(3, shape, 1, 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(rule.initial(3, shape, chunks), noise) and torch.equal(rule.fresh(3, shape, 1, 2), fresh)
    for drawn in (noise, fresh):
        assert drawn.shape == shape and drawn.dtype == torch.float32
        assert abs(float(drawn.mean())) < 0.03 and abs(float(drawn.std()) - 1) < 0.03


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_largest_seed_of_the_host_and_integers_of_numpy_work(rule):
    part = (1, 2, 2, 2, 2)
    assert rule.fresh(2**64 - 1, part, 3, 3).shape == part
    assert torch.equal(rule.fresh(np.int64(5), part, 1, 1), rule.fresh(5, part, 1, 1))
