"""Between the host's images, `(T, H, W, 3)` of 0..1, and the core's, uint8 arrays."""

import numpy as np
import torch
from torch import Tensor


def to_images(array: np.ndarray) -> Tensor:
    """One picture `(H, W, 3)` or several `(T, H, W, 3)` as the host's images."""
    return torch.from_numpy(array if array.ndim == 4 else array[None]).float() / 255


def to_arrays(images: Tensor) -> np.ndarray:
    """The host's images as uint8 `(T, H, W, 3)`; a fourth channel is dropped."""
    return images[..., :3].mul(255).round_().clamp_(0, 255).to(torch.uint8).cpu().numpy()
