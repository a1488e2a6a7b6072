"""The Wan2.1 tensor layout: sizes read off the shapes, and what is missing or too much."""

import torch

from ..backbones.wan import PATCH, WanConfig, WanTransformer
from .safetensors_file import CheckpointError

HEAD_DIM = 128   # of every released model; checkpoints do not store it
Shapes = dict[str, tuple[int, ...]]


def looks_like_wan(shapes: Shapes) -> bool:
    return {"patch_embedding.weight", "blocks.0.self_attn.q.weight", "head.modulation"} <= set(shapes)


def config_of(shapes: Shapes) -> WanConfig:
    """Sizes of a checkpoint. Raises CheckpointError where they cannot be read."""
    try:
        dim, channels = shapes["patch_embedding.weight"][:2]
        blocks = {int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")}
        return WanConfig(dim=dim, layers=max(blocks) + 1, ffn=shapes["blocks.0.ffn.0.weight"][0],
                         heads=max(1, dim // HEAD_DIM), freq_dim=shapes["time_embedding.0.weight"][1],
                         text_dim=shapes["text_embedding.0.weight"][1], channels=channels,
                         fps="fps_embedding.weight" in shapes)
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(f"the tensors are not those of a Wan2.1 model ({error}); give a text-to-video "
                              "checkpoint of that layout") from error


def differences(shapes: Shapes, config: WanConfig) -> tuple[list[str], list[str], list[str]]:
    """Names that are missing, unexpected, and of a wrong shape (with both shapes), each sorted."""
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in WanTransformer(config).state_dict().items()}
    wrong = [f"{name} {shapes[name]} instead of {expected[name]}"
             for name in sorted(set(shapes) & set(expected)) if shapes[name] != expected[name]]
    return sorted(set(expected) - set(shapes)), sorted(set(shapes) - set(expected)), wrong


def checked_config(shapes: Shapes) -> WanConfig:
    """The config of a checkpoint that fits to the last tensor. Raises CheckpointError naming what does not."""
    config = config_of(shapes)
    missing, unexpected, wrong = differences(shapes, config)
    faults = [f"{what}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}" for what, names in
              (("missing", missing), ("unexpected", unexpected), ("wrong shape", wrong)) if names]
    if faults:
        raise CheckpointError(f"{'; '.join(faults)} (a Wan2.1 model of width {config.dim} with {config.layers} layers "
                              f"and {PATCH}x{PATCH} patches has {15 + 27 * config.layers + 5 * config.fps} tensors)")
    return config
