"""Previews of the bundled demo, decoded by its own codec: colours by Wan's published factors are not those of the demo.

The host's previewer applies `latent_rgb_factors_reshape` to what it is given, and then the factors to its first frame.
The codec takes a lone latent frame for the first one of a video, and gets colours wrong where it is none: so several
are decoded, and the last frame is shown.
"""

from typing import Any

import torch
from comfy.latent_formats import Wan21
from torch import Tensor

from ...flowcache_core.demo.bundle import load_codec

SHOWN = 3   # latent frames that are decoded: a chunk


class DemoLatents(Wan21):
    """Latents in Wan's scale, whose previews are decoded frames."""

    def __init__(self) -> None:
        super().__init__()
        self._codec = load_codec()
        self.taesd_decoder_name = None   # the tiny decoder of Wan's latents does not fit the demo's
        self.latent_rgb_factors = [[float(i == j) for j in range(3)] for i in range(3)]
        self.latent_rgb_factors_bias = None
        self.latent_rgb_factors_reshape = self.pixels

    def pixels(self, latents: Tensor) -> Tensor:
        """The last frame `(1, 3, 1, H, W)` in -1..1, on the CPU, of the first chunk of latents `(B, 16, F, h, w)`, in
        the model's own scale."""
        with torch.inference_mode():
            return self._codec.decode(latents[:1, :, :SHOWN].float().cpu())[:, :, -1:]


def show_decoded(model: Any) -> Any:
    """The demo's model, with previews of its own. It was loaded just now and belongs to nobody else yet."""
    model.model.latent_format = DemoLatents()
    return model
