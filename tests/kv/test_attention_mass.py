"""Importance and redundancy against their definitions, written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowcache_core.kv import attention_mass
from flowcache_core.kv.attention_mass import mean_attention, pool_neighbours, redundancy
from tests.reference import PROPERTY, normal


def naive_mean_attention(q, k):
    b, heads, n, d = k.shape
    group, out = q.shape[1] // heads, torch.zeros(b, heads, n, dtype=torch.float64)
    for item in range(b):
        for head in range(heads):
            for query in range(q.shape[2]):
                logits = torch.stack([k[item, head].double() @ q[item, head * group + g, query].double() / d**0.5
                                      for g in range(group)])
                out[item, head] += logits.max(0).values.softmax(0) / q.shape[2]
    return out


def naive_redundancy(k):
    unit = k.double() / (k.double().norm(dim=-1, keepdim=True) + 1e-8)
    similar = unit @ unit.transpose(-1, -2)
    similar.diagonal(dim1=-2, dim2=-1).zero_()
    return (similar.sum(-2) / k.shape[2]).softmax(-1)


def naive_pool(values, kernel, positions):
    out, reach = values.clone(), kernel // 2
    for place in torch.cartesian_prod(*map(torch.arange, values.shape)):
        b, h, i = place.tolist()
        near = [values[b, h, j] for j in range(values.shape[-1])
                if abs(int(positions[b, h, j]) - int(positions[b, h, i])) <= reach]
        out[b, h, i] = max(near)
    return out


@pytest.mark.parametrize("group", [1, 3, 6])
@pytest.mark.parametrize("tile_bytes", [1, 4000, 2**25])
def test_importance(group, tile_bytes, monkeypatch):
    monkeypatch.setattr(attention_mass, "TILE_BYTES", tile_bytes)
    q, k = normal(2, 2 * group, 11, 8), normal(2, 2, 17, 8, seed=1)
    found = mean_attention(q, k)
    torch.testing.assert_close(found.double(), naive_mean_attention(q, k), rtol=2e-6, atol=1e-8)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 2))


@PROPERTY
@given(st.integers(1, 30), st.integers(0, 5))
def test_redundancy(tokens, seed):
    k = normal(2, 2, tokens, 8, seed=seed)
    if seed % 2:
        k[:, :, ::3] = k[:, :, :1].clone()   # duplicates
        k[:, :, -1] = 0              # a key without a direction
    torch.testing.assert_close(redundancy(k).double(), naive_redundancy(k), rtol=1e-6, atol=1e-9)


def test_a_repeated_key_is_the_most_redundant():
    k = normal(1, 1, 12, 8)
    k[:, :, 3:7] = k[:, :, 2:3]
    assert set(redundancy(k)[0, 0].topk(5).indices.tolist()) == {2, 3, 4, 5, 6}


def test_redundancy_in_bf16_is_summed_in_fp32():
    k = normal(1, 2, 400, 16).bfloat16()
    assert redundancy(k)[0, 0].unique().numel() > 300
    torch.testing.assert_close(redundancy(k), redundancy(k.float()))


@PROPERTY
@given(st.sampled_from([1, 3, 7]), st.integers(1, 20), st.integers(0, 9))
def test_pool_over_neighbours_in_the_video(kernel, tokens, seed):
    values = normal(1, 2, tokens, seed=seed)
    steps = torch.randint(1, 4, (1, 2, tokens), generator=torch.Generator().manual_seed(seed))
    positions = steps.cumsum(-1)
    assert torch.equal(pool_neighbours(values, kernel, positions), naive_pool(values, kernel, positions))
    row = torch.arange(tokens).expand(1, 2, tokens)
    assert torch.equal(pool_neighbours(values, kernel), pool_neighbours(values, kernel, row))
