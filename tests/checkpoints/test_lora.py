import pytest
import torch
from safetensors.torch import save_file

from flowcache_core.checkpoints import CheckpointError, load_network, lora_pairs, open_checkpoint, open_lora
from flowcache_core.profiles import load_profile
from tests.checkpoints.samples import in_diffusers_names, peft


@pytest.fixture
def base(wan, tmp_path):
    torch.save({"generator": {f"model.{name}": value for name, value in wan.items()}}, tmp_path / "longlive_base.pt")
    return open_checkpoint(tmp_path / "longlive_base.pt")


def check_merged(base, wan, lora, pairs, scale=1.0):
    network = load_network(base, load_profile("longlive"), lora=lora).state_dict()
    changed = 0
    for name, weight in wan.items():
        a = pairs.get(f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight")
        expected = weight
        if a is not None:
            b = pairs[f"base_model.model.{name.removesuffix('.weight')}.lora_B.weight"]
            expected = weight + scale * b @ a
            changed += 1
        torch.testing.assert_close(network[name], expected, rtol=1e-6, atol=1e-6)
    assert changed == 20


@pytest.mark.parametrize("container", ["flat", "generator_lora", "safetensors"])
def test_merged_into_every_linear_layer(container, base, wan, tmp_path):
    pairs = peft(wan)
    path = tmp_path / ("lora.safetensors" if container == "safetensors" else "lora.pt")
    if container == "safetensors":
        save_file(pairs, path)
    else:
        torch.save(pairs if container == "flat" else {"generator_lora": pairs, "step": 3}, path)
    check_merged(base, wan, path, pairs)


def test_the_reader_yields_key_a_b_and_alpha(wan, tmp_path):
    pairs = peft(wan, rank=3)
    pairs["base_model.model.blocks.0.self_attn.q.alpha"] = torch.tensor(6.0)
    save_file(pairs, tmp_path / "lora.safetensors")
    found = {pair.key: pair for pair in lora_pairs(open_checkpoint(tmp_path / "lora.safetensors"))}
    assert len(found) == 20 and set(found) <= set(wan)
    q, k = found["blocks.0.self_attn.q.weight"], found["blocks.0.self_attn.k.weight"]
    assert (q.alpha, k.alpha, k.rank) == (6.0, 3.0, 3)
    assert torch.equal(k.a.read(), pairs["base_model.model.blocks.0.self_attn.k.lora_A.weight"])
    torch.testing.assert_close(q.delta(), 2 * q.b.read() @ q.a.read())


@pytest.mark.parametrize("prefix", ["diffusion_model.", "model.", "base_model.model.model.", ""])
def test_renamed_keys_are_the_same_lora(prefix, wan, base, tmp_path):
    save_file(peft(wan, prefix=prefix), tmp_path / "lora.safetensors")
    assert len(open_lora(tmp_path / "lora.safetensors", base.shapes)) == 20


def test_diffusers_names(wan, base, tmp_path):
    stems = {name.removesuffix(".weight"): new.removesuffix(".weight") for name, new in
             zip(wan, in_diffusers_names(wan), strict=True)}
    renamed = {"transformer." + stems[key.split(".lora_")[0]] + ".lora_" + key.split(".lora_")[1]: value
               for key, value in peft(wan, prefix="").items()}
    save_file(renamed, tmp_path / "lora.safetensors")
    assert set(open_lora(tmp_path / "lora.safetensors", base.shapes)) <= set(wan)


def damaged(pairs, kind):
    first = "base_model.model.blocks.0.ffn.0."
    if kind == "alone":
        del pairs[first + "lora_B.weight"]
    elif kind == "rank":
        pairs[first + "lora_B.weight"] = torch.zeros(192, 9)
    elif kind == "other model":
        pairs[first + "lora_B.weight"] = torch.zeros(77, 4)
    elif kind == "stray":
        pairs["base_model.model.blocks.0.ffn.0.dora_scale"] = torch.zeros(2)
    else:
        pairs = {"x": torch.zeros(1)}
    return pairs


@pytest.mark.parametrize(("kind", "sentence"), [
    ("alone", "blocks.0.ffn.0.lora_A.weight .* has no partner"), ("rank", "does not fit"),
    ("other model", "changes blocks.0.ffn.0.weight by \\(77, 128\\), the model has \\(192, 128\\)"),
    ("stray", "dora_scale is no part of a LoRA"), ("none", "is no part of a LoRA")])
def test_a_lora_that_does_not_fit(kind, sentence, wan, base, tmp_path):
    save_file(damaged(peft(wan), kind), tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=sentence):
        open_lora(tmp_path / "lora.safetensors", base.shapes)
