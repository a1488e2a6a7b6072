"""Checkpoint files through the loader: recognised, unwrapped, sampled as the family is."""

import importlib
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from tests.nodes import tiny


@pytest.fixture
def loading(pack: ModuleType) -> ModuleType:
    return importlib.import_module(f"{pack.__name__}.nodes.loading")


@pytest.fixture
def folder(base):
    path = base / "models" / "diffusion_models"
    path.mkdir(parents=True, exist_ok=True)
    return path


def skyreels() -> dict[str, torch.Tensor]:
    d = tiny.DIM
    shapes = {"fps_embedding.weight": (2, d), "fps_projection.0.weight": (d, d), "fps_projection.0.bias": (d,),
              "fps_projection.2.weight": (6 * d, d), "fps_projection.2.bias": (6 * d,)}
    generator = torch.Generator().manual_seed(9)
    return tiny.weights() | {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


FILES = {
    "self_forcing_dmd.pt": ("self-forcing", lambda: {"generator": {"x": torch.zeros(1)}, "generator_ema": {
        f"model._fsdp_wrapped_module.{name}": value for name, value in tiny.weights().items()}}),
    "causal_forcing_framewise.safetensors": ("causal-forcing-framewise", tiny.weights),
    "anything.safetensors": ("skyreels-v2-df", skyreels),
}


@pytest.mark.parametrize("name", FILES)
def test_published_files_load_with_their_profile(pack, loading, folder, version, name):
    profile, make = FILES[name]
    tensors = make()
    (save_file if name.endswith("safetensors") else torch.save)(tensors, folder / name)
    model, told = loading.load_file(name, "auto", "auto", {"dtype": torch.float32})
    template = tiny.bridge(pack, "template").template_of(model.model_options)
    assert template.profile.name == profile and "width 256, 2 layers" in told
    causal = template.profile.family == "wan-causal" and version >= (0, 21)
    assert type(model.model.diffusion_model).__name__ == ("CausalWanModel" if causal else "WanModel")
    plain = tiny.weights()["blocks.1.ffn.2.weight"]
    assert torch.equal(model.model.diffusion_model.blocks[1].ffn[2].weight, plain)
    bias = model.model.diffusion_model.time_projection[1].bias
    assert (not torch.equal(bias, tiny.weights()["time_projection.1.bias"])) == (profile == "skyreels-v2-df")


def test_family_that_cannot_be_told_is_asked_for(loading, folder):
    save_file(tiny.weights(), folder / "wan.safetensors")
    with pytest.raises(ValueError, match="family its tensors do not tell; choose its profile"):
        loading.load_file("wan.safetensors", "auto", "auto", {})
    model, _ = loading.load_file("wan.safetensors", "self-forcing", "auto", {"dtype": torch.float8_e4m3fn})
    assert model.model.diffusion_model.blocks[0].ffn[0].weight.dtype == torch.float8_e4m3fn


def test_file_of_something_else_gets_one_sentence(loading, folder):
    save_file({"x.weight": torch.zeros(2)}, folder / "else.safetensors")
    with pytest.raises(ValueError, match=r"else.safetensors: its tensors are not those of a Wan2.1 model; give"):
        loading.load_file("else.safetensors", "auto", "auto", {})
