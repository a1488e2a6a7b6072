"""The correction of rounded keys against its definition, and what it is for."""

import pytest
import torch

from flowcache_core.attention import AttentionRun, attend_masked
from flowcache_core.attention.quantised import with_step_channel
from flowcache_core.backbones.hooks import attend
from flowcache_core.kv import KVBudget
from flowcache_core.plan import sequential
from tests.reference import naive_attention, normal, tiny_run


def direct(q, k, v, steps, log_m=None, exact=False):
    """Attention with the bias subtracted from every logit, written out."""
    logits, a = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, q[:, :, :, None] * steps[:, :, None, :, None]
    a = a / (2 * q.shape[-1] ** 0.5)
    bias = (a.sinh() / a).log().sum(-1) if exact else (a**2 / 6).sum(-1)
    return (logits - bias + (0 if log_m is None else log_m[:, :, None])).softmax(-1) @ v


def example(dtype=torch.float64):
    return (*(normal(1, 2, n, 12, seed=s).to(dtype) for s, n in enumerate((5, 9, 9))),
            0.5 * torch.rand(1, 2, 9, generator=torch.Generator().manual_seed(4)).to(dtype))


@pytest.mark.parametrize("weights", [False, True])
def test_one_channel_is_the_bias(weights):
    q, k, v, steps = example()
    log_m = torch.rand(1, 2, 9, dtype=torch.float64) if weights else None
    wide = with_step_channel(q, k, v, steps)
    found = attend(*wide) if log_m is None else attend_masked(attend, *wide, log_m)
    expected = direct(q, k, v, steps, log_m)
    torch.testing.assert_close(found[..., :12], expected, atol=1e-6, rtol=1e-6)   # the channel is made in fp32
    torch.testing.assert_close(expected, direct(q, k, v, steps, log_m, exact=True), atol=2e-3, rtol=2e-2)


def test_keys_that_were_not_rounded_attend_as_before():
    q, k, v, steps = example(torch.float32)
    found = AttentionRun().attend("self", None, q, k, v, None, attend, torch.zeros_like(steps))
    torch.testing.assert_close(found, naive_attention(q, k, v), atol=1e-6, rtol=1e-5)


def test_rounded_keys_weigh_on_average_what_exact_keys_weigh():
    """Many dithered roundings: the sum of exp(logit - bias) is that of exact keys; without the bias it is larger."""
    q, k, _, _ = example()
    step, d = 1.0, 12
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(4000, *k.shape, generator=generator, dtype=torch.float64) - 0.5
    rounded = (q @ (k + step * noise).transpose(-1, -2) / d**0.5).exp().mean(0)
    exact = (q @ k.transpose(-1, -2) / d**0.5).exp()
    bias = q.square().sum(-1, keepdim=True) * step**2 / (24 * d)
    assert (rounded / exact).mean() > 1.03
    assert (rounded * (-bias).exp() / exact).mean().item() == pytest.approx(1, abs=0.01)


def test_a_run_with_int8_keys_is_corrected_and_a_narrow_host_says_that_it_is_not():
    run = tiny_run(sequential(8, 2, 3), budget=KVBudget(3), kv_dtype=torch.int8)
    made = []
    plain = run.cache.attention._attend
    run.cache.attention._attend = lambda kind, place, q, *rest: made.append(q.shape[-1]) or plain(kind, place, q, *rest)
    assert run.run().isfinite().all() and set(made) == {16} and not run.trace.notes   # heads of 12

    def narrow(q, k, v, bias=None):
        if q.shape[-1] != 12:
            raise RuntimeError("unsupported head width")
        return attend(q, k, v, bias)

    q, k, v, steps = example(torch.float32)
    host = AttentionRun()
    torch.testing.assert_close(host.attend("self", None, q, k, v, None, narrow, steps), attend(q, k, v))
    assert ["without the correction" in note for note in host.notes()] == [True]
