"""Checkpoints, profiles, codec and embedded prompts through the command line, from file to finished chunks."""

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowcache_core.backbones.wan_vae import WanVAE
from flowcache_core.cli import main, model_options
from tests.checkpoints.samples import (
    MAGI_TINY,
    in_diffusers_names,
    magi_tensors,
    peft,
    prefixed,
    save_shards,
    wan_tensors,
    wrapped,
)
from tests.cli.test_bad_input import refused

SIDES = [4, 6]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Small files of every kind, profiles of small videos, a codec, embedded prompts."""
    folder = tmp_path_factory.mktemp("models")
    wan, fps, magi = wan_tensors(), wan_tensors(fps=True), magi_tensors(MAGI_TINY)
    torch.save({"generator_ema": wrapped(wan), "critic": {"model.x": torch.zeros(2)}}, folder / "self_forcing_dmd.pt")
    torch.save({"generator": prefixed(wan, "model.")}, folder / "longlive_base.pt")
    torch.save({"generator_lora": peft(wan)}, folder / "lora.pt")
    save_shards(folder / "sky", in_diffusers_names(fps), 3, "diffusion_pytorch_model")
    save_file({k: v.contiguous() for k, v in magi.items()}, folder / "magi.safetensors")
    save_file(wan, folder / "plain.safetensors")
    torch.manual_seed(3)
    rows = {"prompt.0": torch.randn(5, 64), "prompt.2": torch.randn(7, 64), "negative": torch.randn(1, 64)}
    save_file(rows, folder / "text.safetensors")
    save_file({"prompt": rows["prompt.0"]}, folder / "one.safetensors")
    save_file(WanVAE(8).state_dict(), folder / "vae.safetensors")
    for name in ("self-forcing", "longlive", "skyreels-v2-df", "magi-1", "magi-1-base", "rolling-forcing"):
        small(folder, name)
    return folder


def small(folder, name):
    """A profile of one's own: a copy for small latents, and few steps where it takes many."""
    path = folder / f"{name}.json"
    assert main(["profiles", name, "--out", str(path)]) == 0
    data = {**json.loads(path.read_text()), "latent": SIDES}
    if not data["step_list"]:
        data.update(steps=4, ar_step=1)
    path.write_text(json.dumps(data))


def generate(place, out, profile, model, *words, text="text.safetensors"):
    return ["generate", "--profile", str(place / f"{profile}.json"), "--model", str(place / model), "--text-embeddings",
            str(place / text), "--chunks", "3", "--out", str(out), *words]


RUNS = {
    "self-forcing": ("self-forcing", "self_forcing_dmd.pt", ()),
    "a plain file that the profile overrules": ("self-forcing", "plain.safetensors", ("--dtype", "bf16")),
    "longlive with its LoRA": ("longlive", "longlive_base.pt", ("--lora", "lora.pt")),
    "skyreels from a diffusers folder": ("skyreels-v2-df", "sky", ()),
    "magi-1 distilled": ("magi-1", "magi.safetensors", ()),
    "magi-1 base": ("magi-1-base", "magi.safetensors", ()),
}


@pytest.mark.parametrize("case", RUNS)
def test_from_a_file_to_finished_latents(case, place, tmp_path, capsys):
    profile, model, words = RUNS[case]
    words = [str(place / word) if word.endswith(".pt") else word for word in words]
    assert main(generate(place, tmp_path, profile, model, *words)) == 0
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])
    latents = [load_file(tmp_path / f"chunk-{n:04d}.safetensors")["latent"] for n in range(3)]
    assert all(latent.isfinite().all() and list(latent.shape[-2:]) == SIDES for latent in latents)
    assert result["video"] is None and not (tmp_path / "video.mp4").exists()
    assert "no codec" in printed and "--vae" in printed and (tmp_path / "report.png").exists()


def test_with_a_codec_there_is_a_video(place, tmp_path, capsys):
    words = generate(place, tmp_path, "self-forcing", "self_forcing_dmd.pt", "--vae", str(place / "vae.safetensors"))
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["video"] == str(tmp_path / "video.mp4") and (tmp_path / "video.mp4").stat().st_size > 500


def latents_of(folder):
    return [load_file(path)["latent"] for path in sorted(folder.glob("chunk-*.safetensors"))]


def test_prompts_by_chunk_change_what_comes_after_them_alone(place, tmp_path):
    for name in ("text", "one"):
        words = generate(place, tmp_path / name, "self-forcing", "self_forcing_dmd.pt", text=f"{name}.safetensors")
        assert main(words) == 0
    both, one = latents_of(tmp_path / "text"), latents_of(tmp_path / "one")
    assert torch.equal(both[0], one[0]) and torch.equal(both[1], one[1]) and not torch.equal(both[2], one[2])


def test_the_lora_and_its_strength_are_merged(place, tmp_path):
    def made(name, *words):
        assert main(generate(place, tmp_path / name, "longlive", "longlive_base.pt", "--chunks", "1", *words,
                             text="one.safetensors")) == 0
        return latents_of(tmp_path / name)[0]

    lora = ("--lora", str(place / "lora.pt"))
    plain = made("plain")
    assert torch.equal(plain, made("zero", *lora, "--lora-strength", "0"))
    assert not torch.equal(plain, made("one", *lora))


def test_a_name_that_hints_at_another_profile_is_mentioned(place, tmp_path, capsys):
    words = ["generate", "--model", str(place / "self_forcing_dmd.pt"), "--text-embeddings",
             str(place / "one.safetensors"), "--chunks", "1", "--size", "48x32", "--out", str(tmp_path)]
    assert main([*words, "--profile", "causvid"]) == 0
    assert "its name hints at profile self-forcing; it is sampled as causvid" in capsys.readouterr().err
    assert main([*words[:-1], str(tmp_path / "own")]) == 0   # no profile named: the hint is taken
    assert "hints" not in capsys.readouterr().err


def test_a_few_step_preset_says_what_helps(place, tmp_path, capsys):
    assert main(generate(place, tmp_path, "self-forcing", "self_forcing_dmd.pt", "--preset", "balanced")) == 0
    assert "nothing to skip" in capsys.readouterr().out


BAD = {
    "guidance without a negative": (("skyreels-v2-df", "sky"), {"text": "one.safetensors"}, ["no negative"]),
    "a profile of another layout": (("magi-1", "self_forcing_dmd.pt"), {}, ["wan-causal", "magi-1"]),
    "a family of another layout": (("self-forcing", "plain.safetensors", "--family", "magi-1"), {}, ["is Wan2.1"]),
    "weights that are not there": (("self-forcing", "longlive_base.pt", "--weights", "ema"), {}, ["no ema weights"]),
    "a model for a LoRA": (("self-forcing", "plain.safetensors", "--lora", "plain.safetensors"), {},
                           ["no part of a LoRA"]),
    "a LoRA for a model": (("self-forcing", "lora.pt"), {}, ["LoRA", "--lora"]),
    "a codec that is none": (("self-forcing", "plain.safetensors", "--vae", "plain.safetensors"), {},
                             ["not a Wan2.1 VAE"]),
    "a codec for a model": (("self-forcing", "vae.safetensors"), {}, ["--vae"]),
    "text of another width": (("magi-1", "magi.safetensors"), {"text": "wide.safetensors"}, ["[2, 65]"]),
    "a strength of nothing": (("self-forcing", "plain.safetensors", "--lora-strength", "2"), {}, ["without --lora"]),
    "a strength that is no number": (("longlive", "longlive_base.pt", "--lora", "lora.pt", "--lora-strength", "nan"),
                                     {}, ["LoRA strength nan"]),
    "a device that is not there": (("self-forcing", "plain.safetensors", "--device", "cuda:99"), {}, ["'cuda:99'"]),
    "a device that is none": (("self-forcing", "plain.safetensors", "--device", "abacus"), {}, ["'abacus': not there"]),
    "steps that the profile does not list": (("self-forcing", "plain.safetensors", "--steps", "9"), {}, ["9 steps"]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_in_one_sentence(case, place, tmp_path, capsys):
    (profile, model, *more), options, expected = BAD[case]
    save_file({"prompt": torch.zeros(2, 65), "negative": torch.zeros(2, 65)}, place / "wide.safetensors")
    more = [str(place / word) if (place / word).exists() else word for word in more]
    message = refused(generate(place, tmp_path / "out", profile, model, *more, **options), capsys)
    assert all(part in message for part in expected), message
    assert len(message.strip().splitlines()) == 1 and not list(tmp_path.glob("out/chunk-*"))


def damaged(kind, place, folder):
    """The path of a file or folder that no run can use."""
    source = place / "self_forcing_dmd.pt"
    data, path = source.read_bytes(), folder / f"{kind.split()[0]}.pt"
    if kind in ("truncated", "empty", "text", "gguf"):
        path.write_bytes({"truncated": data[:len(data) // 2], "empty": b"", "text": b"not a model\n" * 99,
                          "gguf": b"GGUF\3\0\0\0" * 99}[kind])
    elif kind.startswith("pickle"):
        marker = str(folder / "ran")
        trap = {"generator_ema": wan_tensors(), "trap": Trap(marker)}
        if "torch" in kind:
            torch.save(trap, path)
        else:
            path.write_bytes(pickle.dumps(trap))
    elif kind in ("hole", "shape", "extra"):
        tensors = wan_tensors()
        if kind == "hole":
            del tensors["blocks.1.cross_attn.norm_k.weight"]
        else:
            tensors["blocks.1.ffn.2.bias" if kind == "shape" else "blocks.1.extra"] = torch.zeros(7)
        torch.save({"generator": tensors}, path)
    else:
        path = damaged_shards(kind, place, folder)
    return path


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def damaged_shards(kind, place, folder):
    shards = shutil.copytree(place / "sky", folder / "sky")
    names = sorted(path.name for path in shards.glob("*.safetensors"))
    index = shards / "diffusion_pytorch_model.safetensors.index.json"
    if kind == "missing shard":
        (shards / names[1]).unlink()
    elif kind == "missing shard, no index":
        (shards / names[1]).unlink()
        index.unlink()
    elif kind == "truncated shard":
        (shards / names[2]).write_bytes((shards / names[2]).read_bytes()[:1000])
    elif kind == "index of another model":
        index.write_text(json.dumps({"weight_map": {"nowhere.weight": names[0]}}))
    elif kind == "broken index":
        index.write_text("{")
    elif kind == "mixed shards":
        index.unlink()
        save_shards(shards, wan_tensors(), 2, "model", index=False)
    elif kind == "files without an index":
        index.unlink()
        for n, name in enumerate(names):
            (shards / name).rename(shards / f"part{n}.safetensors")
    elif kind == "compressed shards":
        index.unlink()
        for name in names:
            (shards / name).rename(shards / f"{name}.zst")
    elif kind == "empty folder":
        shutil.rmtree(shards)
        shards.mkdir()
    return shards


DAMAGED = {
    "gguf": "a GGUF file, which this version does not read",
    "truncated": "not a whole torch file", "empty": "empty (0 bytes)", "text": "neither a safetensors nor a torch file",
    "pickle in a torch file": "refused, because it holds more than tensors (posix.mkdir)",
    "pickle alone": "refused, because it holds more than tensors",
    "hole": "missing: blocks.1.cross_attn.norm_k.weight",
    "shape": "wrong shape: blocks.1.ffn.2.bias (7,) instead of (128,)",
    "extra": "unexpected: blocks.1.extra", "missing shard": "00002-of-00003.safetensors: shard missing",
    "missing shard, no index": "00002-of-00003.safetensors: shard missing",
    "truncated shard": "not a whole safetensors file", "index of another model": "nowhere.weight is in no shard",
    "broken index": "no index of shards", "mixed shards": "mixed shards of several models",
    "files without an index": "no index that says which belong together",
    "compressed shards": "decompress them with zstd -d", "empty folder": "no .safetensors file in this folder",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files_are_refused_by_name(kind, place, tmp_path, capsys):
    path = damaged(kind, place, tmp_path)
    words = ["generate", "--profile", str(place / "self-forcing.json"), "--model", str(path), "--text-embeddings",
             str(place / "text.safetensors"), "--out", str(tmp_path / "out")]
    message = refused(words, capsys)
    assert DAMAGED[kind] in message, message
    assert len(message.strip().splitlines()) == 1 and not (tmp_path / "ran").exists()
    if kind not in ("hole", "shape", "extra"):   # those can be looked at, and are said to be damaged
        assert DAMAGED[kind] in refused(["inspect", str(path)], capsys) and not (tmp_path / "ran").exists()
    else:
        assert main(["inspect", str(path)]) == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert found["family"] == "wan-causal" and not found["advice"].startswith("sample")


def test_what_cannot_be_known_is_asked_for(place, tmp_path, capsys, monkeypatch):
    message = refused(["generate", "--model", str(place / "magi.safetensors"), "--out", str(tmp_path)], capsys)
    assert "distilled from base" in message and "magi-1-base" in message
    monkeypatch.setattr(model_options, "SIZES", {(128, 2): "as if released"})
    message = refused(["generate", "--model", str(place / "plain.safetensors"), "--out", str(tmp_path)], capsys)
    assert "choose a variant with --profile" in message
    message = refused(["generate", "--profile", "self-forcing", "--out", str(tmp_path)], capsys)
    assert "give it with --model" in message
    message = refused(["generate", "--profile", "self-forcing", "--model", str(place / "plain.safetensors"), "--out",
                       str(tmp_path)], capsys)
    assert "--text-embeddings" in message


def test_profiles_are_listed_shown_and_copied(tmp_path, capsys):
    assert main(["profiles"]) == 0
    assert "longlive" in json.loads(capsys.readouterr().out.splitlines()[-1])["profiles"]
    assert main(["profiles", "longlive", "--out", str(tmp_path / "mine.json")]) == 0
    printed = capsys.readouterr().out
    assert "local attention of 12 latent frames" in printed and json.loads((tmp_path / "mine.json").read_text())
    assert main(["plan", "--profile", str(tmp_path / "mine.json")]) == 0
    capsys.readouterr()
    assert "exists" in refused(["profiles", "longlive", "--out", str(tmp_path / "mine.json")], capsys)
    assert "'nothing'" in refused(["profiles", "nothing"], capsys)


def test_inspect_through_the_command_line(place, capsys):
    assert main(["inspect", str(place / "self_forcing_dmd.pt")]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(found) == ["family", "variant", "parameters", "tensors", "dtype", "missing", "unexpected", "advice"]
    assert found["family"] == "wan-causal" and "self-forcing" in found["advice"]
    assert main(["inspect", str(place / "plain.safetensors"), "--family", "skyreels-v2-df"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["family"] == "skyreels-v2-df"
