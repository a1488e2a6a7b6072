"""Every container gives the same network, recognised and loaded."""

import json

import pytest
import torch
from safetensors.torch import save_file

from flowcache_core.backbones.wan import WanTransformer
from flowcache_core.checkpoints import CheckpointError, load_network, open_checkpoint, recognise
from flowcache_core.profiles import load_profile
from tests.checkpoints.samples import in_diffusers_names, prefixed, save_shards, scaled, wan_tensors, wrapped

CAUSAL_HEADER = {"config": json.dumps({"transformer": {"causal_ar": True}})}


def plain(folder, t):
    save_file(t, folder / "a.safetensors")
    return folder / "a.safetensors"


def comfy(folder, t):
    return plain(folder, {**prefixed(t, "model.diffusion_model."), "first_stage_model.conv1.weight": torch.zeros(2)})


def with_header(folder, t):
    save_file(t, folder / "a.safetensors", CAUSAL_HEADER)
    return folder / "a.safetensors"


def torch_file(**contents):
    def save(folder, t):
        path = folder / "a.pt"
        torch.save({name: make(t) if callable(make) else make for name, make in contents.items()}, path)
        return path
    return save


def bare_torch_file(folder, t):
    torch.save(t, folder / "a.pth")
    return folder / "a.pth"


def old_torch_file(folder, t):
    torch.save({"state_dict": t}, folder / "a.ckpt", _use_new_zipfile_serialization=False)
    return folder / "a.ckpt"


def misnamed(folder, t):
    save_file(t, folder / "a.pt")
    return folder / "a.pt"


def shards(**options):
    def save(folder, t):
        return save_shards(folder / "m", t, **options)
    return save


def one_shard(folder, t):
    return save_shards(folder / "m", t, index=False) / "model-00002-of-00002.safetensors"


def index_file(folder, t):
    return save_shards(folder / "m", t) / "model.safetensors.index.json"


def pipeline(folder, t):
    save_shards(folder / "m" / "transformer", in_diffusers_names(t), 3, "diffusion_pytorch_model")
    (folder / "m" / "model_index.json").write_text("{}")
    return folder / "m"


def model(t):
    return prefixed(t, "model.")


OTHER = {"model.critic.weight": torch.zeros(3)}
CONTAINERS = {
    "safetensors": (plain, "wan"),
    "safetensors with model.": (lambda f, t: plain(f, model(t)), "wan"),
    "safetensors with diffusion_model.": (lambda f, t: plain(f, prefixed(t, "diffusion_model.")), "wan"),
    "safetensors of a whole pipeline": (comfy, "wan"),
    "safetensors called .pt": (misnamed, "wan"),
    "causal_ar header": (with_header, "wan-causal"),
    "generator_ema": (torch_file(generator_ema=model), "wan-causal"),
    "generator": (torch_file(generator=model), "wan-causal"),
    "generator and critic": (torch_file(generator=model, critic=OTHER, step=7), "wan-causal"),
    "fsdp names": (torch_file(generator_ema=wrapped), "wan-causal"),
    "data parallel names": (torch_file(model=lambda t: prefixed(t, "module.")), "wan"),
    "state_dict": (torch_file(state_dict=lambda t: t, epoch=3), "wan"),
    "a name of one's own": (torch_file(weights=lambda t: t), "wan"),
    "parameters in training": (torch_file(generator=lambda t: {k: torch.nn.Parameter(v) for k, v in t.items()}),
                               "wan-causal"),
    "tensors at the top": (bare_torch_file, "wan"),
    "torch file of the old form": (old_torch_file, "wan"),
    "shards with an index": (shards(count=3), "wan"),
    "shards without an index": (shards(index=False, stem="diffusion_pytorch_model"), "wan"),
    "one shard of a set": (one_shard, "wan"),
    "the index itself": (index_file, "wan"),
    "folder of one file": (lambda f, t: plain(f, t).parent, "wan"),
    "diffusers pipeline": (pipeline, "wan"),
}


@pytest.mark.parametrize("case", CONTAINERS)
def test_a_container_is_recognised_and_loads_the_same_network(case, wan, tmp_path):
    make, family = CONTAINERS[case]
    checkpoint = open_checkpoint(make(tmp_path, wan))
    found = recognise(checkpoint)
    assert (found.family, found.faults) == (family, "")
    network = load_network(checkpoint, load_profile("self-forcing"))
    assert isinstance(network, WanTransformer) and network.dtype == torch.float32
    loaded = network.state_dict()
    assert loaded.keys() == wan.keys() and all(torch.equal(loaded[name], wan[name]) for name in wan)


def test_skyreels_in_diffusers_names_keeps_its_fps_tensors(tmp_path):
    tensors = wan_tensors(fps=True)
    path = save_shards(tmp_path / "SkyReels", in_diffusers_names(tensors), 2, "diffusion_pytorch_model")
    checkpoint = open_checkpoint(path)
    assert recognise(checkpoint).family == "skyreels-v2-df" and checkpoint.diffusers
    network = load_network(checkpoint, load_profile("skyreels-v2-df"))
    assert network.fps == 24
    assert all(torch.equal(value, tensors[name]) for name, value in network.state_dict().items())


@pytest.fixture
def both(wan, tmp_path):
    path = tmp_path / "both.pt"
    torch.save({"generator": model(wan), "generator_ema": model({k: v + 1 for k, v in wan.items()})}, path)
    return path


def test_average_or_raw_weights(both, wan):
    name = "blocks.0.ffn.0.bias"

    def value(**options):
        return open_checkpoint(both, **options).state_dict()[name]

    assert torch.equal(value(), wan[name] + 1)
    assert torch.equal(value(weights="raw"), wan[name])
    assert torch.equal(value(prefer="raw"), wan[name])
    assert torch.equal(value(weights="ema", prefer="raw"), wan[name] + 1)


def test_weights_that_are_not_there_are_not_replaced_by_others(wan, tmp_path):
    path = CONTAINERS["generator"][0](tmp_path, wan)
    assert open_checkpoint(path).chosen == "generator"
    with pytest.raises(CheckpointError, match="no ema weights in it, only generator"):
        open_checkpoint(path, weights="ema")


def test_8_bit_weights_with_scales_are_read_as_plain_ones(wan, tmp_path):
    path = plain(tmp_path, scaled(wan))
    checkpoint = open_checkpoint(path)
    assert recognise(checkpoint).faults == ""
    network = load_network(checkpoint, load_profile("self-forcing"), dtype=torch.float32)
    for name, value in network.state_dict().items():
        assert (value - wan[name]).abs().max() <= 0.07 * wan[name].abs().max(), name


def test_magi_in_8_bits_equals_its_formula(tmp_path):
    """weight * weight_scale * input_scale / smooth_scale, column by column, for linear_proj and fc2."""
    from flowcache_core.checkpoints.scaled import dequantised
    from flowcache_core.checkpoints.stored import stored

    torch.manual_seed(3)
    weight = torch.randn(1, 6, 4).to(torch.float8_e4m3fn)
    parts = {"weight": weight, "weight_scale": torch.tensor([0.5]), "input_scale": torch.tensor([3.0]),
             "smooth_scale": torch.rand(1, 4) + 0.5}
    found = dequantised({f"fc2.{name}": stored(value) for name, value in parts.items()}, "x")
    assert list(found) == ["fc2.weight"] and found["fc2.weight"].shape == (6, 4)
    expected = [[weight[0, i, j].item() * 0.5 * 3 / parts["smooth_scale"][0, j].item() for j in range(4)]
                for i in range(6)]
    torch.testing.assert_close(found["fc2.weight"].read().float(), torch.tensor(expected), rtol=1e-2, atol=0)
