"""The MAGI-1 tensor layout: sizes read off the shapes."""

import torch

from ..backbones.magi import MagiTransformer
from ..backbones.magi_parts import MagiConfig
from .stored import CheckpointError
from .wan_layout import Shapes, block_numbers, vote

BLOCK = "videodit_blocks.layers.0."
HALF_CHANNELS = 32   # of the 24B, which is given the latent twice
FP32 = ("x_embedder.", "t_embedder.", "y_embedder.", "final_linear.", "rope.", "videodit_blocks.final_layernorm.")
FP32_ENDS = (".q_layernorm.weight", ".q_layernorm.bias", ".k_layernorm.weight", ".k_layernorm.bias")
FP32_PARTS = ("_post_norm.",)


def looks_like_magi(shapes: Shapes) -> bool:
    return any(name.startswith("y_embedder.") for name in shapes) and any(name.startswith(BLOCK) for name in shapes)


def magi_config_of(shapes: Shapes) -> MagiConfig:
    """Sizes of a checkpoint. Raises CheckpointError where they cannot be read."""
    try:
        attention = f"{BLOCK}self_attention."
        hidden = vote(shapes, ("videodit_blocks.final_layernorm.weight", 0), (f"{BLOCK}mlp.layer_norm.weight", 0),
                      ("x_embedder.weight", 0))
        channels = shapes["x_embedder.weight"][1]
        head = shapes[f"{attention}q_layernorm.weight"][0]
        out, ffn = shapes[f"{BLOCK}mlp.linear_fc1.weight"][0], shapes[f"{BLOCK}mlp.linear_fc2.weight"][1]
        rows, width = shapes["y_embedder.null_caption_embedding"]
        layers = block_numbers(shapes, "videodit_blocks.layers.")
        half = channels == HALF_CHANNELS
        return MagiConfig(max(layers) + 1, hidden, ffn, shapes[f"{attention}linear_qkv.q.weight"][0] // head,
                          shapes[f"{attention}linear_qkv.k.weight"][0] // head, head, channels // (1 + half), width,
                          rows, gated=out == 2 * ffn, half_channel=half,
                          cond_hidden_ratio=shapes["t_embedder.mlp.0.weight"][0] / hidden)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"the tensors are not those of a MAGI-1 model ({error}); give a checkpoint of that "
                              "layout") from error


def magi_expected(config: MagiConfig) -> Shapes:
    """The layout of a model of these sizes."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in MagiTransformer(config).state_dict().items()}


def stays_fp32(name: str) -> bool:
    """Whether a tensor of MAGI-1 is kept in fp32 beside blocks in 16 bits."""
    return name.startswith(FP32) or name.endswith(FP32_ENDS) or any(part in name for part in FP32_PARTS)
