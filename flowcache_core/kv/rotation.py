"""Keys as they would be at frame 0: the part of the rotary embedding that tells the time, undone."""

import torch
from torch import Tensor


def time_channels(head_dim: int) -> int:
    """Channels of a head that the Wan layout turns with the frame; the others are turned with row and column."""
    return head_dim - 4 * (head_dim // 6)


def turned_back(keys: Tensor, frames: Tensor, theta: float) -> Tensor:
    """`keys (..., n, d)`, fp32, of tokens in `frames (..., n)`, as if all were in frame 0.

    Wan layout: consecutive pairs of the first channels are turned by `frame * theta ** (-2 i / channels)`.
    """
    width = time_channels(keys.shape[-1])
    frequency = theta ** (-torch.arange(0, width, 2, dtype=torch.float64, device=keys.device) / width)
    angle = frames.unsqueeze(-1) * frequency
    cos, sin = angle.cos().float(), angle.sin().float()
    real, imaginary = keys[..., :width].unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([real * cos + imaginary * sin, imaginary * cos - real * sin], dim=-1).flatten(-2)
    return torch.cat([turned, keys[..., width:]], dim=-1)
