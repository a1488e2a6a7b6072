"""Small checkpoints with the real names, in every container that models are published in."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from flowcache_core.backbones.magi import MagiTransformer
from flowcache_core.backbones.magi_parts import MagiConfig
from flowcache_core.backbones.wan import WanConfig, WanTransformer

TINY = WanConfig(dim=128, layers=2, ffn=192, heads=1, text_dim=64, freq_dim=32)
MAGI_TINY = MagiConfig(layers=3, hidden=128, ffn=192, heads=8, kv_heads=8, head_dim=128, caption_channels=64,
                       caption_max_length=60)
Tensors = dict[str, Tensor]

DIFFUSERS_TOP = {"time_embedding.0": "condition_embedder.time_embedder.linear_1",
                 "time_embedding.2": "condition_embedder.time_embedder.linear_2",
                 "time_projection.1": "condition_embedder.time_proj",
                 "text_embedding.0": "condition_embedder.text_embedder.linear_1",
                 "text_embedding.2": "condition_embedder.text_embedder.linear_2",
                 "head.head": "proj_out", "head.modulation": "scale_shift_table",
                 "fps_projection.0": "fps_projection.net.0.proj", "fps_projection.2": "fps_projection.net.2"}
DIFFUSERS_BLOCK = {"self_attn.o": "attn1.to_out.0", "cross_attn.o": "attn2.to_out.0", "norm3": "norm2",
                   "ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2", "modulation": "scale_shift_table",
                   **{f"{a}.{part}": f"{b}.{new}" for a, b in (("self_attn", "attn1"), ("cross_attn", "attn2"))
                      for part, new in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("norm_q", "norm_q"),
                                        ("norm_k", "norm_k"))}}


def wan_tensors(fps: bool = False, seed: int = 0, **changes: int) -> Tensors:
    torch.manual_seed(seed)
    config = WanConfig(**{**TINY.__dict__, "fps": fps, **changes})
    return {name: value.clone() for name, value in WanTransformer(config).state_dict().items()}


def magi_tensors(config: MagiConfig) -> Tensors:
    return {name: 0.05 * torch.randn_like(value) for name, value in MagiTransformer(config).state_dict().items()}


def prefixed(tensors: Tensors, prefix: str) -> Tensors:
    return {prefix + name: value for name, value in tensors.items()}


def wrapped(tensors: Tensors) -> Tensors:
    """As FSDP, activation checkpointing and compilation leave them."""
    return {"model._fsdp_wrapped_module._orig_mod." + name.replace("blocks.1.", "blocks.1._checkpoint_wrapped_module.")
            : value for name, value in tensors.items()}


def in_diffusers_names(tensors: Tensors) -> Tensors:
    def renamed(name: str) -> str:
        parts = name.split(".")
        lead, table = (".".join(parts[:2]) + ".", DIFFUSERS_BLOCK) if parts[0] == "blocks" else ("", DIFFUSERS_TOP)
        rest = name[len(lead):]
        old = next((old for old in table if rest == old or rest.startswith(old + ".")), None)
        return lead + (table[old] + rest[len(old):] if old else rest)

    return {renamed(name): value for name, value in tensors.items()}


def save_shards(folder: Path, tensors: Tensors, count: int = 2, stem: str = "model", index: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    files = [f"{stem}-{n + 1:05d}-of-{count:05d}.safetensors" for n in range(count)]
    where = {name: files[place * count // len(names)] for place, name in enumerate(names)}
    for file in files:
        save_file({name: tensors[name].contiguous() for name in names if where[name] == file}, folder / file)
    if index:
        text = json.dumps({"metadata": {}, "weight_map": where})
        (folder / f"{stem}.safetensors.index.json").write_text(text)
    return folder


def peft(tensors: Tensors, rank: int = 4, prefix: str = "base_model.model.") -> Tensors:
    """A LoRA on every linear layer of every block."""
    torch.manual_seed(7)
    pairs: Tensors = {}
    for name, value in tensors.items():
        if name.startswith("blocks.") and name.endswith(".weight") and value.dim() == 2:
            base = prefix + name.removesuffix(".weight")
            pairs[f"{base}.lora_A.weight"] = 0.1 * torch.randn(rank, value.shape[1])
            pairs[f"{base}.lora_B.weight"] = 0.1 * torch.randn(value.shape[0], rank)
    return pairs


def scaled(tensors: Tensors) -> Tensors:
    """Weights of the blocks' linear layers in 8 bits with a scale each, as ComfyUI saves them."""
    out: Tensors = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, value in tensors.items():
        if name.startswith("blocks.") and name.endswith(".weight") and value.dim() == 2:
            scale = value.abs().max() / 448
            out[name] = (value / scale).to(torch.float8_e4m3fn)
            out[name.removesuffix("weight") + "scale_weight"] = scale
        else:
            out[name] = value.half()
    return out
