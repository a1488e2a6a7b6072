"""Numbers that tell one network from another, the same in every dtype and on every device to a few parts in a thousand.

Taken from what every backbone can be asked without a forward: its answer to a few timesteps and to one fixed latent.
"""

import torch

from .backbones.backbone import Backbone

TIMESTEPS = (100.0, 500.0, 900.0)
PARTS = 8            # means over so many parts of each answer
SIDE = 4             # latent pixels, in patches
TOLERANCE = 0.005    # relative; rounding to bfloat16 stays below, other weights do not


def fingerprint(backbone: Backbone) -> tuple[float, ...]:
    """Layers, heads and head size, then mean magnitudes of parts of the network's two signals."""
    sizes = backbone.sizes
    side = SIDE * sizes.patch
    count = sizes.channels * side * side
    latent = torch.cos(torch.arange(count, dtype=torch.float32) ** 2).view(1, sizes.channels, 1, side, side)
    with torch.inference_mode():
        answers = [backbone.time_modulation(torch.tensor([[t]], device=backbone.device)) for t in TIMESTEPS]
        answers.append(backbone.patch_tokens(latent.to(backbone.device)))
        means = [part.float().abs().mean() for answer in answers for part in answer.flatten().tensor_split(PARTS)]
    return (float(sizes.layers), float(sizes.heads), float(sizes.head_dim), *(float(mean) for mean in means))


def same_network(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two fingerprints are of one network."""
    return len(a) == len(b) and all(abs(x - y) <= TOLERANCE * max(abs(x), abs(y)) for x, y in zip(a, b, strict=True))
