"""Formats against rounding written out, and the store in each of them."""

import pytest
import torch

from flowcache_core.kv import KVBudget, KVShape, KVStore, format_of
from flowcache_core.kv.host_memory import HostBuffer
from flowcache_core.kv.storage import LIMITS, Buffer
from flowcache_core.plan import sequential
from tests.reference import normal, tiny_run, tiny_wan

COMPUTE = (torch.float32, torch.bfloat16, torch.float16)
ONE_BYTE = tuple(LIMITS)
by_dtype = pytest.mark.parametrize("dtype", ONE_BYTE, ids=str)


def outliers(*shape: int) -> torch.Tensor:
    """Vectors of very different length, as keys are; one of zeros."""
    x = normal(*shape, seed=3) * torch.logspace(-3, 3, shape[2]).view(1, 1, -1, 1)
    x[:, :, 0] = 0
    return x


@by_dtype
@pytest.mark.parametrize("compute", COMPUTE, ids=str)
def test_every_vector_keeps_its_own_scale(dtype, compute):
    form, x = format_of(dtype, compute), outliers(1, 2, 9, 32).to(compute)
    codes, scale = form.encode(x)
    assert codes.dtype == dtype and scale.dtype == compute and scale.shape == (1, 2, 9, 1)
    for head in range(2):
        for token in range(9):
            wanted = x[0, head, token].float()
            step = float(scale[0, head, token])
            found = form.decode((codes, scale))[0, head, token].float()
            # int8: half a step. e4m3: 3 bits behind the point, so 1/16 of the number. Rounding of `compute` on top.
            bound = 0.5 * step if dtype == torch.int8 else (wanted.abs() / 16).clamp_min(step * 2**-10)
            slack = 0.6 * step + torch.finfo(compute).eps * wanted.abs()
            assert ((found - wanted).abs() <= bound + (slack if compute != torch.float32 else 1e-6)).all()
    assert (form.decode((codes, scale))[:, :, 0] == 0).all()


def test_int8_by_hand():
    form = format_of(torch.int8, torch.float32)
    codes, scale = form.encode(torch.tensor([[[[1.27, -0.634, 0.005, 0.0149]]]]))
    assert codes.tolist() == [[[[127, -63, 0, 1]]]] and scale.item() == pytest.approx(0.01)
    assert form.steps((codes, scale)) is scale
    assert format_of(torch.float8_e4m3fn, torch.float32).steps((codes, scale)) is None
    for kind in (Buffer, HostBuffer):
        buffer = kind(form, (*codes.shape[:2], 3 * codes.shape[2], codes.shape[3]), "cpu")
        n = codes.shape[2]
        buffer.put_parts([(n, 2 * n)], (codes, scale))
        buffer.put_parts([(0, n)], (codes, 2 * scale))
        assert torch.equal(buffer.steps([(n, 2 * n), (0, 1)]), torch.cat([scale, 2 * scale[:, :, :1]], dim=2))


@pytest.mark.parametrize("dtype", [*ONE_BYTE, torch.bfloat16], ids=str)
def test_moving_tokens_rounds_nothing_a_second_time(dtype):
    buffer = Buffer(format_of(dtype, torch.float32), (2, 2, 8, 4), "cpu")
    buffer.put([(0, 3), (5, 8)], normal(2, 2, 6, 4))
    before = buffer.get([(0, 3), (5, 8)]).clone()
    index = torch.tensor([[[0, 4], [5, 1]], [[2, 3], [1, 5]]])
    buffer.put_parts([(3, 5)], buffer.choice([(0, 3), (5, 8)], index))
    after = buffer.get([(3, 5)])
    for item in range(2):
        for head in range(2):
            assert torch.equal(after[item, head], before[item, head, index[item, head]])
    buffer.put([(0, 2)], normal(1, 2, 2, 4, seed=9), torch.tensor([1]))
    assert torch.equal(buffer.get([(0, 2)])[0], before[0, :, :2])


@pytest.mark.parametrize(("dtype", "low", "high"), [
    (torch.float32, None, None), (torch.bfloat16, 1e-4, 5e-3), (torch.int8, 1e-3, 2e-2),
    (torch.float8_e4m3fn, 1e-2, 6e-2)], ids=str)
def test_the_error_is_reported(dtype, low, high):
    shape = KVShape(1, 1, 1, 2, 16, dtype.itemsize)
    store = KVStore(shape, ["cond#0"], 8, dtype, "cpu", compute=torch.float32)
    store.reserve(0, 8, 0)
    keys, values = normal(1, 2, 8, 16), normal(1, 2, 8, 16, seed=1) * 100
    store.write(0, "cond#0", 0, keys, values)
    if low is None:
        assert store.errors is None
        return
    for error, wanted, found in zip(store.errors, (keys, values), store.read(0, "cond#0", (0,)), strict=True):
        assert low < error < high
        assert error == pytest.approx(float((found.float() - wanted).norm() / wanted.norm()), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, *ONE_BYTE], ids=str)
def test_a_run_with_stored_formats_stays_near_and_counts_its_bytes(dtype):
    plan, model = sequential(8, 2, 4), tiny_wan()
    whole = tiny_run(plan, model)
    found = tiny_run(plan, model, kv_dtype=dtype, budget=KVBudget(3))
    narrow = tiny_run(plan, model, budget=KVBudget(3))
    latents = whole.run()
    assert 0 < (found.run() - narrow.run()).norm() / latents.norm() < 0.05
    one_byte = dtype.itemsize == 1
    scales = 4 if one_byte else 0
    token = 2 * model.config.layers * model.config.heads * (model.config.head_dim * dtype.itemsize + scales)
    assert found.trace.kv_peak_bytes == 3 * 2 * 4 * token
    assert found.trace.summary()["kv_error"] is not None and narrow.trace.summary()["kv_error"] is None


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match=r"KV dtype torch.int32: choose float32, float16"):
        format_of(torch.int32, torch.float32)
