"""What a file is said to be, and what overrules it."""

import pytest
import torch
from safetensors.torch import save_file

from flowcache_core.backbones.magi import MagiTransformer
from flowcache_core.checkpoints import CheckpointError, inspect_file, load_network, open_checkpoint, recognise
from flowcache_core.checkpoints.recognition import hinted_profile
from flowcache_core.profiles import load_profile
from tests.checkpoints.samples import peft, wan_tensors

FIELDS = ["family", "variant", "parameters", "tensors", "dtype", "missing", "unexpected", "advice"]


def saved(folder, tensors, name="a.safetensors", metadata=None):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    return path


def test_the_fields_of_inspect(wan, tmp_path):
    found = inspect_file(saved(tmp_path, wan)).to_json()
    assert list(found) == FIELDS
    assert (found["family"], found["tensors"], found["dtype"]) == ("wan", len(wan), "F32")
    assert found["parameters"] == sum(value.numel() for value in wan.values())
    assert "causality not" in found["advice"] and "self-forcing" in found["advice"]


def test_the_fps_embedding_makes_it_skyreels(tmp_path):
    found = inspect_file(saved(tmp_path, wan_tensors(fps=True)))
    assert found.family == "skyreels-v2-df" and "skyreels-v2-df" in found.advice


def test_the_bundled_kind_says_so_in_its_header(wan, tmp_path):
    assert inspect_file(saved(tmp_path, wan, metadata={"family": "demo"})).family == "demo"


def test_magi(magi, tmp_path):
    found = inspect_file(saved(tmp_path, magi))
    assert found.family == "magi-1" and not found.missing and "magi-1-base" in found.advice
    named = inspect_file(saved(tmp_path, magi, "4.5B_distill/inference_weight.distill/model.safetensors"))
    assert named.profile == "magi-1" and "distilled" in named.variant


def test_magi_loads_with_its_fp32_islands(magi, tmp_path):
    half = {name: value.bfloat16() for name, value in magi.items()}
    checkpoint = open_checkpoint(saved(tmp_path, half))
    network = load_network(checkpoint, load_profile("magi-1"), steps=16)
    assert isinstance(network, MagiTransformer) and network.distill.steps == 16
    dtypes = {name: value.dtype for name, value in network.state_dict().items()}
    assert dtypes["x_embedder.weight"] == dtypes["rope.bands"] == torch.float32
    layer = "videodit_blocks.layers.1."
    assert dtypes[layer + "self_attention.q_layernorm.weight"] == torch.float32
    assert dtypes[layer + "self_attention.q_layernorm_xattn.weight"] == torch.bfloat16
    assert dtypes[layer + "mlp_post_norm.weight"] == torch.float32
    assert dtypes[layer + "mlp.linear_fc1.weight"] == torch.bfloat16
    assert load_network(checkpoint, load_profile("magi-1-base")).distill is None


RELATIVES = {"image-to-video": {"img_emb.proj.0.weight": torch.zeros(2)},
             "VACE": {"vace_blocks.0.before_proj.weight": torch.zeros(2)}}


@pytest.mark.parametrize("relative", RELATIVES)
def test_relatives_with_other_inputs_are_not_supported(relative, wan, tmp_path):
    path = saved(tmp_path, {**wan, **RELATIVES[relative]})
    found = inspect_file(path)
    assert (found.family, found.variant) == ("wan-unsupported", relative)
    with pytest.raises(CheckpointError, match=f"wan-unsupported \\({relative}\\), which cannot be sampled"):
        load_network(open_checkpoint(path), load_profile("self-forcing"))


@pytest.mark.parametrize(("channels", "name"), [(36, "image-to-video"), (48, "Wan2.2 TI2V-5B"), (20, "20 input")])
def test_input_channels_tell_relatives_apart(channels, name, tmp_path):
    found = inspect_file(saved(tmp_path, wan_tensors(channels=channels)))
    assert found.family == "wan-unsupported" and name in found.variant


@pytest.mark.parametrize(("path", "family", "profile"), [
    ("checkpoints/self_forcing_dmd.pt", "wan-causal", "self-forcing"),
    ("chunkwise/causal_forcing.pt", "wan-causal", "causal-forcing"),
    ("framewise/causal_forcing.pt", "wan-causal", "causal-forcing-framewise"),
    ("chunkwise/longvideo.pt", "wan-causal", "causal-forcing-long"),
    ("causal-forcing++/framewise-1step.pt", "wan-causal", "causal-forcing-1step"),
    ("rolling_forcing_dmd.pt", "wan-causal", "rolling-forcing"),
    ("models/longlive_base.pt", "wan-causal", "longlive"),
    ("autoregressive_checkpoint/model.pt", "wan-causal", "causvid"),
    ("ar_diffusion_tf.pt", "wan-causal", "ar-diffusion"),
    ("x/model.pt", "wan-causal", ""),
    ("SkyReels-V2-DF-14B-720P", "skyreels-v2-df", "skyreels-v2-df-14b-720p"),
    ("Wan2_1-SkyReels-V2-DF-14B-540P_fp16.safetensors", "skyreels-v2-df", "skyreels-v2-df-14b-540p")])
def test_published_names_hint_at_a_profile(path, family, profile, tmp_path):
    assert hinted_profile(tmp_path / path, family) == profile


def test_a_14b_of_skyreels_is_known_by_its_name_alone_and_says_so(wan, tmp_path):
    found = recognise(open_checkpoint(saved(tmp_path, wan, "SkyReels-V2-DF-14B-540P.safetensors")))
    assert (found.family, found.certain, found.profile) == ("skyreels-v2-df", False, "skyreels-v2-df-14b-540p")


def test_the_user_overrules(wan, magi, tmp_path):
    path = saved(tmp_path, wan)
    assert inspect_file(path, family="skyreels-v2-df").family == "skyreels-v2-df"
    assert inspect_file(path, family="wan-causal").family == "wan-causal"
    with pytest.raises(CheckpointError, match="family 'hunyuan': choose one of"):
        inspect_file(path, family="hunyuan")
    with pytest.raises(CheckpointError, match="family magi-1 for a file whose layout is Wan2.1"):
        inspect_file(path, family="magi-1")
    with pytest.raises(CheckpointError, match="family wan for a file whose layout is MAGI-1"):
        inspect_file(saved(tmp_path, magi, "magi.safetensors"), family="wan")


def test_a_profile_of_another_family_is_refused_until_overruled(tmp_path):
    checkpoint = open_checkpoint(saved(tmp_path, wan_tensors(fps=True)))
    with pytest.raises(CheckpointError, match="as skyreels-v2-df, the profile self-forcing is for wan-causal"):
        load_network(checkpoint, load_profile("self-forcing"))
    assert load_network(checkpoint, load_profile("self-forcing"), recognise(checkpoint, "wan-causal")).config.fps


@pytest.mark.parametrize(("key", "word"), [("decoder.middle.0.residual.0.gamma", "--vae"),
                                           ("decoder.proj_in.weight", "MAGI-1 VAE"),
                                           ("token_embedding.weight", "--text-embeddings"), ("x.weight", "layout")])
def test_other_files_are_unknown_and_named_where_that_helps(key, word, tmp_path):
    found = inspect_file(saved(tmp_path, {key: torch.zeros(2)}))
    assert found.family == "unknown" and word in found.variant + found.advice


def test_a_lora_is_no_model(wan, tmp_path):
    found = inspect_file(saved(tmp_path, peft(wan), "longlive_lora.safetensors"))
    assert found.family == "wan-causal" and found.variant == "LoRA of 20 layers, rank 4" and "--lora" in found.advice
