import pytest
import torch
from safetensors.torch import save_file

from flowcache_core.backbones.wan_vae import WanVAE
from flowcache_core.checkpoints import CheckpointError, load_vae

WIDTH = 8


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return WanVAE(WIDTH).eval()


def saved(codec, path, change=None):
    tensors = {name: value.clone() for name, value in codec.state_dict().items()}
    if change is not None:
        change(tensors)
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    return path


@pytest.mark.parametrize("name", ["wan_2.1_vae.safetensors", "Wan2.1_VAE.pth"])
def test_both_published_forms_decode_alike(name, codec, tmp_path):
    loaded = load_vae(saved(codec, tmp_path / name))
    latent = torch.randn(1, 16, 2, 3, 3)
    with torch.inference_mode():
        assert torch.equal(loaded.decode(latent), codec.decode(latent))
        assert torch.equal(loaded.encode(loaded.decode(latent)), codec.encode(codec.decode(latent)))


def test_the_released_width_is_shape_checked_without_being_made():
    """Real width on the meta device: names and sizes of the released file."""
    with torch.device("meta"):
        state = WanVAE(96).state_dict()
    assert len(state) == 194 and sum(value.numel() for value in state.values()) == 126_892_531
    assert state["decoder.head.0.gamma"].shape[0] == 96


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda t: t.pop("decoder.conv1.bias"), "missing: decoder.conv1.bias .*width 8"),
    (lambda t: t.update(x=torch.zeros(1)), "unexpected: x"),
    (lambda t: t.update({"conv2.bias": torch.zeros(3)}), "wrong shape: conv2.bias"),
    (lambda t: t.pop("decoder.head.0.gamma"), "not a Wan2.1 VAE"),
    (lambda t: (t.clear(), t.update({"decoder.up_blocks.0.resnets.0.norm1.gamma": torch.zeros(1)})), "diffusers names"),
    (lambda t: (t.clear(), t.update({"decoder.proj_in.weight": torch.zeros(1)})), "MAGI-1's VAE")])
def test_a_codec_that_does_not_fit(change, sentence, codec, tmp_path):
    with pytest.raises(CheckpointError, match=sentence):
        load_vae(saved(codec, tmp_path / "vae.safetensors", change))
