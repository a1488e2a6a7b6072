"""The Wan2.1 tensor layout: sizes read off the shapes, and what is missing or too much."""

import torch

from ..backbones.wan import PATCH, WanConfig, WanTransformer
from .stored import CheckpointError

HEAD_DIM = 128   # of every released model; checkpoints do not store it
CHANNELS = 16
SIZES = {(1536, 30): "1.3B", (5120, 40): "14B", (3072, 30): "5B"}   # (width, layers) of released models
Shapes = dict[str, tuple[int, ...]]

# Parts and input channels of relatives with other inputs, which no causal model here has.
RELATIVES = (("vace_", "VACE"), ("img_emb.", "image-to-video"), ("control_adapter", "camera control"),
             ("ref_conv", "reference"), ("casual_audio_encoder", "speech-to-video"), ("face_adapter", "Animate"))
INPUTS = {36: "image-to-video", 48: "Wan2.2 TI2V-5B"}


def looks_like_wan(shapes: Shapes) -> bool:
    return {"patch_embedding.weight", "blocks.0.self_attn.q.weight", "head.modulation"} <= set(shapes)


def unsupported(shapes: Shapes) -> str:
    """Which relative of the text-to-video layout this is; "" for that layout itself."""
    for part, name in RELATIVES:
        if any(key.startswith(part) for key in shapes):
            return name
    if any(".k_img." in key for key in shapes):
        return "image-to-video"
    width = shapes["patch_embedding.weight"]
    if len(width) == 5 and width[1] != CHANNELS:
        return INPUTS.get(width[1], f"{width[1]} input channels")
    return ""


def block_numbers(shapes: Shapes, start: str) -> set[int]:
    """Numbers of the blocks. Raises ValueError where they cannot be those of a model."""
    numbers = {int(name.removeprefix(start).split(".")[0]) for name in shapes if name.startswith(start)}
    if max(numbers) >= len(shapes):
        raise ValueError(f"block {max(numbers)} in {len(shapes)} tensors")
    return numbers


def config_of(shapes: Shapes) -> WanConfig:
    """Sizes of a checkpoint. Raises CheckpointError where they cannot be read."""
    try:
        dim, channels = shapes["patch_embedding.weight"][:2]
        blocks = block_numbers(shapes, "blocks.")
        return WanConfig(dim=dim, layers=max(blocks) + 1, ffn=shapes["blocks.0.ffn.0.weight"][0],
                         heads=max(1, dim // HEAD_DIM), freq_dim=shapes["time_embedding.0.weight"][1],
                         text_dim=shapes["text_embedding.0.weight"][1], channels=channels,
                         fps="fps_embedding.weight" in shapes)
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(f"the tensors are not those of a Wan2.1 model ({error}); give a text-to-video "
                              "checkpoint of that layout") from error


def expected_shapes(config: WanConfig) -> Shapes:
    """The layout of a model of these sizes."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in WanTransformer(config).state_dict().items()}


def differences(shapes: Shapes, config: WanConfig) -> tuple[list[str], list[str], list[str]]:
    """Names that are missing, unexpected, and of a wrong shape (with both shapes), each sorted."""
    return compared(shapes, expected_shapes(config))


def compared(shapes: Shapes, expected: Shapes) -> tuple[list[str], list[str], list[str]]:
    """As `differences`, against any layout."""
    wrong = [f"{name} {shapes[name]} instead of {expected[name]}"
             for name in sorted(set(shapes) & set(expected)) if shapes[name] != expected[name]]
    return sorted(set(expected) - set(shapes)), sorted(set(shapes) - set(expected)), wrong


def faults(missing: list[str], unexpected: list[str], wrong: list[str]) -> str:
    """The differences in words, the first three of a kind; "" where there are none."""
    return "; ".join(f"{what}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}" for what, names in
                     (("missing", missing), ("unexpected", unexpected), ("wrong shape", wrong)) if names)


def checked_config(shapes: Shapes) -> WanConfig:
    """The config of a checkpoint that fits to the last tensor. Raises CheckpointError naming what does not."""
    config = config_of(shapes)
    found = faults(*differences(shapes, config))
    if found:
        raise CheckpointError(f"{found} (a Wan2.1 model of width {config.dim} with {config.layers} layers and "
                              f"{PATCH}x{PATCH} patches has {15 + 27 * config.layers + 5 * config.fps} tensors)")
    return config
