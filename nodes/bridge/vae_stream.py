"""Decoding a video chunk by chunk with the host's Wan VAE: one decoder memory for the whole video, so no seams.

The decoder wants the first latent frame alone, and later ones in pairs (hosts from 0.18 on give wrong frames for a lone
one in the middle). So an odd frame waits for the next chunk, or for the end.
"""

import sys
from typing import Any

import torch
from comfy.model_management import load_models_gpu
from torch import Tensor


class VaeStream:
    """vae: the host's; model: the patcher that samples, brought back after each decode. Raises ValueError for a VAE of
    another kind."""

    def __init__(self, vae: Any, model: Any) -> None:
        self._vae, self._model, network = vae, model, vae.first_stage_model
        if type(network).__module__ != "comfy.ldm.wan.vae" or type(network).__name__ != "WanVAE":
            raise ValueError(f"a VAE of class {type(network).__name__}: decoding while chunks are sampled needs the "
                             "Wan 2.1 VAE; connect that, or leave vae open and decode the latent afterwards")
        module = sys.modules[type(network).__module__]
        count = getattr(module, "count_cache_layers", None) or module.count_conv3d
        self._memory: list[Any] = [None] * count(network.decoder)
        self._waiting: Tensor | None = None
        self._begun = False

    def push(self, latents: Tensor) -> Tensor:
        """Frames `(B, T, H, W, 3)` in 0..1 on the CPU of latents `(B, C, f, h, w)`, as the host scales them."""
        z = latents if self._waiting is None else torch.cat([self._waiting, latents], dim=2)
        first = 0 if self._begun else 1
        stop = first + (z.shape[2] - first) // 2 * 2
        frames = self._decode(z[:, :, :stop])
        self._waiting = z[:, :, stop:].clone() if stop < z.shape[2] else None
        return frames

    def finish(self) -> Tensor | None:
        """The frames that were waiting for a pair; None where there are none."""
        waiting, self._waiting = self._waiting, None
        return None if waiting is None else self._decode(waiting)

    def _decode(self, z: Tensor) -> Tensor:
        vae = self._vae
        if not z.shape[2]:
            return torch.empty(z.shape[0], 0, 8 * z.shape[3], 8 * z.shape[4], 3)
        load_models_gpu([vae.patcher], memory_required=vae.memory_used_decode(z.shape, vae.vae_dtype))
        parts: list[Tensor] = []
        x = vae.first_stage_model.conv2(z.to(device=vae.device, dtype=vae.vae_dtype))
        while x.shape[2]:
            size = 2 if self._begun else 1
            out = vae.first_stage_model.decoder(x[:, :, :size], feat_cache=self._memory, feat_idx=[0])
            parts += out if isinstance(out, list) else [out]
            x, self._begun = x[:, :, size:], True
        load_models_gpu([self._model])   # making room for the VAE may have pushed it out
        pixels = torch.cat(parts, dim=2).to(vae.output_device).float()
        return vae.process_output(pixels).movedim(1, -1)

    def close(self) -> None:
        self._memory, self._waiting = [], None
