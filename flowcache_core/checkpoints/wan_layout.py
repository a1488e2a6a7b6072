"""The Wan2.1 tensor layout: sizes read off the shapes, and what is missing or too much."""

import torch

from ..backbones.wan import PATCH, WanConfig, WanTransformer
from .stored import CheckpointError

HEAD_DIM = 128   # of every released model; checkpoints do not store it
CHANNELS, FREQ_DIM, TEXT_DIM = 16, 256, 4096
MARKS = ("patch_embedding.weight", "text_embedding.0.weight", "time_embedding.0.weight", "time_projection.1.weight",
         "head.head.weight", "head.modulation", "blocks.0.modulation", "blocks.0.self_attn.q.weight",
         "blocks.0.ffn.0.weight")
SIZES = {(1536, 30): "1.3B", (5120, 40): "14B", (3072, 30): "5B"}   # (width, layers) of released models
Shapes = dict[str, tuple[int, ...]]

# Parts and input channels of relatives with other inputs, which no causal model here has.
RELATIVES = (("vace_", "VACE"), ("img_emb.", "image-to-video"), ("control_adapter", "camera control"),
             ("ref_conv", "reference"), ("casual_audio_encoder", "speech-to-video"), ("face_adapter", "Animate"))
INPUTS = {36: "image-to-video", 48: "Wan2.2 TI2V-5B"}


def looks_like_wan(shapes: Shapes) -> bool:
    """Whether most of the tensors are there that every such model has, so that one with a hole is known too."""
    return sum(mark in shapes for mark in MARKS) > len(MARKS) // 2


def vote(shapes: Shapes, *places: tuple[str, int]) -> int:
    """The size that most of the places (tensor, axis) agree on. Raises KeyError where none is there."""
    sizes = [shapes[name][axis] for name, axis in places if name in shapes and -len(shapes[name]) <= axis
             < len(shapes[name])]
    if not sizes:
        raise KeyError(places[0][0])
    return max(sizes, key=sizes.count)


def unsupported(shapes: Shapes) -> str:
    """Which relative of the text-to-video layout this is; "" for that layout itself."""
    for part, name in RELATIVES:
        if any(key.startswith(part) for key in shapes):
            return name
    if any(".k_img." in key for key in shapes):
        return "image-to-video"
    inputs = shapes.get("patch_embedding.weight", ())
    if len(inputs) == 5 and inputs[1] != CHANNELS:
        return INPUTS.get(inputs[1], f"{inputs[1]} input channels")
    return ""


def block_numbers(shapes: Shapes, start: str) -> set[int]:
    """Numbers of the blocks. Raises ValueError where they cannot be those of a model."""
    numbers = {int(name.removeprefix(start).split(".")[0]) for name in shapes if name.startswith(start)}
    if max(numbers) >= len(shapes):
        raise ValueError(f"block {max(numbers)} in {len(shapes)} tensors")
    return numbers


def _inputs(shapes: Shapes, name: str, usual: int) -> int:
    shape = shapes.get(name, ())
    return shape[1] if len(shape) > 1 else usual


def config_of(shapes: Shapes) -> WanConfig:
    """Sizes of a checkpoint. Raises CheckpointError where they cannot be read."""
    try:
        dim = vote(shapes, ("head.modulation", 2), ("patch_embedding.bias", 0), ("blocks.0.modulation", 2),
                   ("blocks.0.norm3.bias", 0))
        blocks = block_numbers(shapes, "blocks.")
        ffn = vote(shapes, *((f"blocks.{n}.ffn.0.bias", 0) for n in sorted(blocks)), ("blocks.0.ffn.0.weight", 0))
        return WanConfig(dim=dim, layers=max(blocks) + 1, ffn=ffn, heads=max(1, dim // HEAD_DIM),
                         freq_dim=_inputs(shapes, "time_embedding.0.weight", FREQ_DIM),
                         text_dim=_inputs(shapes, "text_embedding.0.weight", TEXT_DIM),
                         channels=_inputs(shapes, "patch_embedding.weight", CHANNELS),
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
