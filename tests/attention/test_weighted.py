"""A key that stands for m tokens weighs as much as m equal keys, whatever carries the weight."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowcache_core.attention import WeightedAttention, attend_masked, attend_widened
from flowcache_core.backbones.hooks import attend
from tests.reference import PROPERTY, naive_attention, normal

CARRIERS = {"mask": attend_masked, "channels": attend_widened}


def merged_and_repeated(counts, heads, group, width, dtype):
    """One key for each group of equal keys with the mean of their values, and all of them one by one."""
    q = normal(2, heads * group, 5, width, seed=1).to(dtype)
    keys = normal(2, heads, len(counts), width, seed=2).to(dtype)
    members = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    values = normal(2, heads, len(members), width, seed=3).to(dtype)
    means = torch.stack([values[:, :, members == n].mean(2) for n in range(len(counts))], dim=2)
    log_m = torch.tensor(counts).log().expand(2, heads, -1)
    return (q, keys, means, log_m), (q, keys[:, :, members], values)


@PROPERTY
@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(1, 2), st.sampled_from([1, 3, 6]),
       st.sampled_from([3, 6, 8, 12]), st.sampled_from(list(CARRIERS)))
def test_equals_attention_over_the_repeated_keys(counts, heads, group, width, carrier):
    merged, (q, k, v) = merged_and_repeated(counts, heads, group, width, torch.float64)
    found = CARRIERS[carrier](attend, *merged)
    shared = [x.repeat_interleave(group, dim=1) for x in (k, v)]
    torch.testing.assert_close(found, naive_attention(q, *shared), atol=1e-6, rtol=1e-5)   # log m is fp32


def test_weights_of_one_change_nothing():
    q, k, v = normal(1, 2, 4, 8), normal(1, 2, 6, 8, seed=1), normal(1, 2, 6, 8, seed=2)
    plain = attend(q, k, v)
    assert torch.equal(WeightedAttention()(attend, q, k, v, None), plain)
    for carry in CARRIERS.values():
        torch.testing.assert_close(carry(attend, q, k, v, torch.zeros(1, 2, 6)), plain, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("count", [2, 100, 1000, 10**6])
def test_two_channels_carry_a_weight_through_half_precision(count):
    """A query of zeros: the logit is log m alone."""
    seen = {}

    def spy(q, k, v, bias=None):
        seen["logits"] = q.float() @ k.float().transpose(-1, -2) / q.shape[-1] ** 0.5
        return v[:, :, :1]

    log_m = torch.tensor([[[float(count)]]]).log()
    attend_widened(spy, *(torch.zeros(1, 1, 1, 128).bfloat16() for _ in range(3)), log_m)
    assert abs(seen["logits"].item() - log_m.item()) < 2e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_takes_the_carrier_that_rounds_no_weight(dtype):
    """Against fp32 on the same rounded tensors: no more is lost than without weights."""
    q, k, v = (normal(1, 2, n, 64, seed=n).to(dtype) for n in (50, 301, 302))
    k, v, log_m = k[:, :, :300], v[:, :, :300], (1 + 400 * normal(1, 2, 300, seed=7).sigmoid()).log()
    exact = attend_masked(attend, q.float(), k.float(), v.float(), log_m)

    def error(found):
        return float((found.float() - exact).norm() / exact.norm())

    unweighted = float((attend(q, k, v).float() - attend(q.float(), k.float(), v.float())).norm() / exact.norm())
    assert error(WeightedAttention()(attend, q, k, v, log_m)) < 2 * unweighted
    if dtype == torch.bfloat16:
        assert error(attend_masked(attend, q, k, v, log_m)) > 3 * unweighted


def test_no_wider_head_where_the_attention_refuses_it():
    """The width is tried once, on a few tokens; the mask carries the weight then."""
    calls = []

    def narrow(q, k, v, bias=None):
        calls.append((q.shape[-1], q.shape[2]))
        if q.shape[-1] != 8:
            raise RuntimeError("unsupported head width")
        return attend(q, k, v, bias)

    weighted = WeightedAttention()
    q, k, v = normal(1, 2, 40, 8), normal(1, 2, 60, 8, seed=1), normal(1, 2, 60, 8, seed=2)
    assert [weighted.fits(narrow, q, k, v) for _ in range(2)] == [False, False] and calls == [(16, 8)]
    log_m = torch.rand(1, 2, 60)
    found = weighted(narrow, q, k, v, log_m)
    torch.testing.assert_close(found, attend_widened(attend, q, k, v, log_m), atol=1e-5, rtol=1e-5)
    wide = WeightedAttention("channels")
    torch.testing.assert_close(wide(attend, q, k, v, log_m), found, atol=1e-5, rtol=1e-5)
