"""The frame rate folded into a bias equals the embedding kept apart, for both rates and without loading anything."""

import pytest
import torch

from flowcache_core.backbones.fps import BIAS, fps_delta
from flowcache_core.backbones.wan import TimeModulation, WanConfig, WanTransformer
from flowcache_core.plan import diffusion_forcing
from tests.reference import SIDE, TINY, normal, tiny_run, tiny_wan

CONFIG = WanConfig(**{**TINY.__dict__, "fps": True})


class Apart(WanTransformer):
    """A plain network beside which the embedding of the rate is computed, row by row, as the authors do."""

    def __init__(self, tensors, row):
        super().__init__(TINY)
        self.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("fps_")})
        hidden = tensors["fps_projection.0.weight"] @ tensors["fps_embedding.weight"][row]
        hidden = hidden + tensors["fps_projection.0.bias"]
        hidden = hidden / (1 + torch.exp(-hidden))
        self.added = tensors["fps_projection.2.weight"] @ hidden + tensors["fps_projection.2.bias"]
        self.eval().requires_grad_(False)

    def embed_time(self, timestep):
        time = super().embed_time(timestep)
        return TimeModulation(time.embedding, time.modulation + self.added.view(6, -1))


@pytest.mark.parametrize(("fps", "row"), [(16, 0), (24, 1), (30, 1), (None, 1)])
def test_the_fold_equals_the_embedding_kept_apart(fps, row):
    model = tiny_wan(CONFIG)
    apart, folded = Apart(model.state_dict(), row), model.at_fps(fps)
    inputs = (normal(1, 4, 3, SIDE, SIDE), torch.tensor([[999.0, 412.0, 0.0]]), normal(1, 5, TINY.dim, seed=1))
    torch.testing.assert_close(folded(*inputs), apart(*inputs), atol=1e-5, rtol=1e-5)
    model.fps = fps
    torch.testing.assert_close(folded(*inputs), model(*inputs), atol=1e-5, rtol=1e-5)


def test_a_whole_run_at_either_rate_equals_the_embedding_kept_apart():
    model, plan = tiny_wan(CONFIG), diffusion_forcing(6, 2, 6, 2)
    runs = {fps: tiny_run(plan, model.at_fps(fps), guidance=3.0).run() for fps in (16, 24)}
    for row, latents in enumerate(runs.values()):
        found = tiny_run(plan, Apart(model.state_dict(), row), guidance=3.0).run()
        torch.testing.assert_close(latents, found, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(runs[16], runs[24], atol=1e-3)


def test_rates_share_every_other_tensor_and_leave_the_network_alone():
    model = tiny_wan(CONFIG)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    slow, fast = (model.at_fps(fps).state_dict() for fps in (16, 24))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, value in slow.items():
        shared = value.data_ptr() == fast[name].data_ptr() == model.state_dict()[name].data_ptr()
        assert shared == (name != BIAS), name


def test_a_network_without_rates_is_left_as_it_is():
    model = tiny_wan()
    assert model.at_fps(16) is model
    with pytest.raises(ValueError, match=r"no tensor fps_embedding.weight: .* leave the rate out"):
        fps_delta(model.state_dict(), 16)


def test_the_delta_is_computed_in_fp32_from_a_bf16_file():
    tensors = {name: value.bfloat16() for name, value in tiny_wan(CONFIG).state_dict().items()}
    delta = fps_delta(tensors, 16)
    assert delta.dtype == torch.float32 and delta.shape == (6 * TINY.dim,)
